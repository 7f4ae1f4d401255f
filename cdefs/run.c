/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * KVM_RUN with a deadline. A POSIX timer of the calling thread sends it a signal; the handler sets
 * immediate_exit, so that a signal that lands just before KVM_RUN is not lost
 * (Documentation/virt/kvm/api.rst, immediate_exit).
 *
 * The timer is left armed when a guest exits in time: arming and disarming it around each KVM_RUN
 * would be two more system calls for each, an eighth of a short one. When it fires and the run it was armed for is over,
 * it is armed again for the run now under way, or rests.
 */
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEADLINE_SIGNAL (SIGRTMAX - 2)

struct deadline_timer {
	timer_t timer;
	volatile uint64_t armed_ns;	/* CLOCK_MONOTONIC, 0 when at rest */
	volatile uint64_t wanted_ns;	/* the deadline of the run under way */
	struct kvm_run *volatile run;	/* the run under way, or NULL */
	volatile int expired;
};

static pthread_once_t deadline_once = PTHREAD_ONCE_INIT;
static pthread_key_t deadline_key;
static int deadline_error;

static int arm(struct deadline_timer *deadline, uint64_t ns)
{
	struct itimerspec when = {
		.it_value = { .tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) },
	};

	deadline->armed_ns = ns;
	return timer_settime(deadline->timer, TIMER_ABSTIME, &when, NULL);
}

static void on_deadline(int signal, siginfo_t *info, void *context)
{
	struct deadline_timer *deadline = info->si_value.sival_ptr;
	int saved_errno = errno;

	(void)signal;
	(void)context;
	if (info->si_code != SI_TIMER)
		return;
	if (!deadline->run) {
		deadline->armed_ns = 0;
	} else if (clock_ns(CLOCK_MONOTONIC) < deadline->wanted_ns) {
		arm(deadline, deadline->wanted_ns);
	} else {
		deadline->armed_ns = 0;
		deadline->expired = 1;
		deadline->run->immediate_exit = 1;
	}
	errno = saved_errno;
}

static void delete_deadline(void *pointer)
{
	struct deadline_timer *deadline = pointer;

	timer_delete(deadline->timer);
	free(deadline);
}

/* A child made by fork() has none of its parent's timers: let it make its own. */
static void forget_deadline(void)
{
	free(pthread_getspecific(deadline_key));
	pthread_setspecific(deadline_key, NULL);
}

static void prepare_deadlines(void)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_sigaction = on_deadline;
	action.sa_flags = SA_SIGINFO;
	sigemptyset(&action.sa_mask);
	if (sigaction(DEADLINE_SIGNAL, &action, NULL))
		deadline_error = errno;
	else
		deadline_error = pthread_key_create(&deadline_key, delete_deadline);
	if (!deadline_error)
		deadline_error = pthread_atfork(NULL, NULL, forget_deadline);
}

/* The calling thread's timer, made at its first use; NULL with errno set on failure. */
static struct deadline_timer *this_thread_deadline(void)
{
	struct deadline_timer *deadline;
	struct sigevent event;
	sigset_t signals;

	pthread_once(&deadline_once, prepare_deadlines);
	if (deadline_error) {
		errno = deadline_error;
		return NULL;
	}
	deadline = pthread_getspecific(deadline_key);
	if (deadline)
		return deadline;
	deadline = calloc(1, sizeof(*deadline));
	if (!deadline)
		return NULL;
	memset(&event, 0, sizeof(event));
	event.sigev_notify = SIGEV_THREAD_ID;
	event.sigev_signo = DEADLINE_SIGNAL;
	event.sigev_value.sival_ptr = deadline;
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif
	event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
	sigemptyset(&signals);
	sigaddset(&signals, DEADLINE_SIGNAL);
	if (timer_create(CLOCK_MONOTONIC, &event, &deadline->timer)) {
		free(deadline);
		return NULL;
	}
	pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
	pthread_setspecific(deadline_key, deadline);
	return deadline;
}

int run_vcpu(int fd, struct kvm_run *run, uint64_t deadline_ns, int resumed, struct bracket *bracket)
{
	struct deadline_timer *deadline = this_thread_deadline();
	int result;

	if (!deadline)
		return -errno;
	deadline->expired = 0;
	deadline->wanted_ns = deadline_ns;
	deadline->run = run;
	if (!deadline->armed_ns || deadline->armed_ns > deadline_ns) {
		if (arm(deadline, deadline_ns)) {
			deadline->run = NULL;
			return -errno;
		}
	}
	if (bracket && !resumed)
		open_bracket(bracket);
	result = ioctl(fd, KVM_RUN, 0) < 0 ? -errno : 0;
	if (bracket)
		close_bracket(bracket);
	deadline->run = NULL;
	run->immediate_exit = 0;
	return result == -EINTR && deadline->expired ? 1 : result;
}
