/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The threads of a VMM, followed by ptrace(2). A thread stops where it makes one of the ioctls of
 * tracer_lines.c, and where that ends; between the two readings of the host's clocks lie the ioctl and two
 * switches of context. A command is given a seccomp filter that stops at these ioctls alone. A process that
 * runs already cannot be given one: it stops at every system call. Whatever the VMM learns the result of has
 * been written before.
 */

/* Threads */

static int tgid_of(int tid)
{
	char path[64], text[256];
	int tgid = tid;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	status = fopen(path, "re");
	if (!status)
		return tid;
	while (fgets(text, sizeof(text), status))
		if (sscanf(text, "Tgid: %d", &tgid) == 1)
			break;
	fclose(status);
	return tgid;
}

static struct thread *thread_of(int tid)
{
	struct thread **link = &threads, *thread;

	for (; (thread = *link); link = &thread->next)
		if (thread->tid == tid) {
			*link = thread->next; /* those that stop often come first */
			thread->next = threads;
			return threads = thread;
		}
	thread = calloc(1, sizeof(*thread));
	if (!thread)
		abort();
	thread->tid = tid;
	thread->tgid = tgid_of(tid);
	thread->number = progress->threads++;
	thread->next = threads;
	progress->traced++;
	return threads = thread;
}

static void forget(int tid)
{
	struct thread **link = &threads, *thread;

	for (; (thread = *link); link = &thread->next)
		if (thread->tid == tid) {
			/* In an ioctl whose end nobody saw. */
			if (thread->ioctl) {
				struct moment last = now();

				if (!strcmp(thread->ioctl->name, "run"))
					end_run(thread, UNKNOWN_EXIT, last);
				else {
					begin_line(thread->ioctl->name, thread->object, thread->number);
					if (!strcmp(thread->ioctl->name, "create_vcpu"))
						put(", \"vcpu\": %u", (uint32_t)thread->argument);
					put(", \"died\": true");
					end_line(thread->before, last);
				}
			}
			*link = thread->next;
			progress->traced--;
			if (thread->tid == thread->tgid)
				end_streaks(thread->tgid, NULL);
			free(thread);
			return;
		}
}

/* The other threads of a process that calls execve() are gone, and the caller takes the first one's place. */
static void note_exec(struct thread *leader, unsigned long former)
{
	int again = 1;

	while (again) {
		again = 0;
		for (struct thread *each = threads; each; each = each->next)
			if (each != leader && each->tgid == leader->tgid) {
				forget(each->tid);
				again = 1;
				break;
			}
	}
	(void)former;
	leader->ioctl = NULL;
}

static void resume(const struct thread *thread, int signal)
{
	if (caught && !command_pid) {
		int tid = thread->tid;

		if (!ptrace(PTRACE_DETACH, tid, NULL, (void *)(intptr_t)signal))
			forget(tid);
		return;
	}
	ptrace(whole_system_calls || thread->ioctl ? PTRACE_SYSCALL : PTRACE_CONT, thread->tid, NULL,
	       (void *)(intptr_t)signal);
}

static void at_system_call(struct thread *thread, struct moment after)
{
	struct __ptrace_syscall_info info;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, thread->tid, (void *)sizeof(info), &info) <= 0)
		return;
	if (info.op == PTRACE_SYSCALL_INFO_EXIT)
		end_ioctl(thread, info.exit.rval, after);
	else if (info.op != PTRACE_SYSCALL_INFO_NONE && info.arch == AUDIT_ARCH_X86_64 && info.entry.nr == SYS_ioctl)
		begin_ioctl(thread, info.entry.args[0], info.entry.args[1], info.entry.args[2]);
}

static void at_stop(struct thread *thread, int status, struct moment after)
{
	int event = status >> 16, signal = WSTOPSIG(status);
	unsigned long message = 0;

	if (event == PTRACE_EVENT_STOP) {
		if (signal == SIGTRAP || (caught && !command_pid))
			resume(thread, 0);
		else /* of the whole process, by SIGSTOP or a terminal: it stays stopped until SIGCONT */
			ptrace(PTRACE_LISTEN, thread->tid, NULL, NULL);
		return;
	}
	if (signal == (SIGTRAP | 0x80) || event == PTRACE_EVENT_SECCOMP) {
		at_system_call(thread, after);
		resume(thread, 0);
		return;
	}
	if (event) {
		ptrace(PTRACE_GETEVENTMSG, thread->tid, NULL, &message);
		if (event == PTRACE_EVENT_EXEC)
			note_exec(thread, message);
		if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE) {
			struct thread *child = thread_of((int)message);

			if (child->tgid != thread->tgid)
				inherit(thread->tgid, child->tgid);
		}
		resume(thread, 0);
		return;
	}
	resume(thread, signal);
}

static void follow(void)
{
	for (;;) {
		int status, tid = waitpid(-1, &status, __WALL);
		struct moment after = now();

		if (tid < 0 && errno == EINTR)
			continue;
		if (tid < 0)
			break;
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			if (tid == command_pid)
				progress->exit_status = status;
			forget(tid);
		} else if (WIFSTOPPED(status)) {
			at_stop(thread_of(tid), status, after);
		}
	}
	end_streaks(-1, NULL);
}

/* Signals to us: a command gets them too, a process is let go */

static void on_signal(int signal)
{
	caught = signal;
	/* A terminal sends SIGINT and SIGQUIT to all that run on it. */
	if (command_pid && signal != SIGINT && signal != SIGQUIT)
		kill(command_pid, signal);
	if (!command_pid)
		for (const struct thread *each = threads; each; each = each->next)
			ptrace(PTRACE_INTERRUPT, each->tid, NULL, NULL);
}

static const int SIGNALS[] = { SIGINT, SIGQUIT, SIGTERM, SIGHUP };

static void catch_signals(struct sigaction *former)
{
	struct sigaction action = { .sa_handler = on_signal };

	for (size_t i = 0; i < COUNT(SIGNALS); i++) {
		sigaction(SIGNALS[i], NULL, &former[i]);
		/* Ignored already, as with nohup: so be it. */
		if (former[i].sa_handler != SIG_IGN)
			sigaction(SIGNALS[i], &action, NULL);
	}
}

static void leave_signals(const struct sigaction *former)
{
	for (size_t i = 0; i < COUNT(SIGNALS); i++)
		sigaction(SIGNALS[i], &former[i], NULL);
}

static void begin(int output, struct recording *recording)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC_RAW, &time);
	memset(recording, 0, sizeof(*recording));
	recording->ns_start = (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
	recording->exit_status = -1;
	progress = recording;
	output_fd = output;
	command_pid = caught = 0;
}

static void end(void)
{
	while (threads)
		forget(threads->tid);
	while (objects) {
		struct object *next = objects->next;

		free(objects);
		objects = next;
	}
	free(events);
	events = NULL;
}

/* The command */

#define OPTIONS                                                                                             \
	(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | \
	 PTRACE_O_TRACEEXEC)

static int stop_at_ioctls(void)
{
	struct sock_filter filter[COUNT(IOCTLS) + 8];
	struct sock_fprog program = { .filter = filter };
	uint8_t left = COUNT(IOCTLS);
	unsigned short n = 0;

	filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, left + 3);
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, left + 1);
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						   offsetof(struct seccomp_data, args[1]));
	for (size_t i = 0; i < COUNT(IOCTLS); i++, left--)
		filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IOCTLS[i].number, left, 0);
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
	program.len = n;
	/* With the flag the command pays for no mitigation that it would not pay for otherwise. */
	if (!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program))
		return 0;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);
}

static void become(char **argv, int go, int trouble)
{
	char byte;
	int error;

	signal(SIGPIPE, SIG_DFL); /* which Python ignores */
	signal(SIGXFSZ, SIG_DFL);
	if (read(go, &byte, 1) == 1 && !stop_at_ioctls())
		execvp(argv[0], argv);
	error = errno;
	if (write(trouble, &error, sizeof(error)) < 0)
		_exit(126);
	_exit(127);
}

int record_command(char **argv, int output, struct recording *recording)
{
	struct sigaction former[COUNT(SIGNALS)];
	int go[2], trouble[2], pid, error = 0;

	begin(output, recording);
	if (pipe2(go, O_CLOEXEC) || pipe2(trouble, O_CLOEXEC))
		return -errno;
	pid = fork();
	if (!pid)
		become(argv, go[0], trouble[1]);
	close(go[0]);
	close(trouble[1]);
	if (pid < 0 || ptrace(PTRACE_SEIZE, pid, NULL, (void *)(OPTIONS | PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL)))
		error = errno;
	if (error) {
		close(go[1]); /* on which the child ends */
		close(trouble[0]);
		if (pid > 0)
			waitpid(pid, NULL, 0);
		return -error;
	}
	command_pid = pid;
	whole_system_calls = 0;
	catch_signals(former);
	if (write(go[1], "", 1) < 0)
		error = errno;
	close(go[1]);
	follow();
	leave_signals(former);
	end();
	if (read(trouble[0], &error, sizeof(error)) != sizeof(error))
		error = 0;
	close(trouble[0]);
	return -error;
}

/* A process that runs */

static int seize_threads(int pid)
{
	char path[64];
	DIR *folder;
	int found, error = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	do { /* until all threads were there that those not yet seized may have made */
		struct dirent *entry;

		found = 0;
		folder = opendir(path);
		if (!folder)
			return threads ? 0 : -ESRCH;
		while ((entry = readdir(folder))) {
			int tid = atoi(entry->d_name);

			if (tid <= 0)
				continue;
			if (!ptrace(PTRACE_SEIZE, tid, NULL, (void *)OPTIONS)) {
				thread_of(tid);
				ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
				found = 1;
			} else if (!threads) {
				error = errno;
			}
		}
		closedir(folder);
	} while (found);
	return threads ? 0 : -error;
}

int record_process(int pid, int output, struct recording *recording)
{
	struct sigaction former[COUNT(SIGNALS)];
	int error;

	begin(output, recording);
	whole_system_calls = 1;
	error = seize_threads(pid);
	if (error) {
		end();
		return error;
	}
	catch_signals(former);
	follow();
	leave_signals(former);
	end();
	return 0;
}
