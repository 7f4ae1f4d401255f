/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The first process of a lab machine: loads the modules that /etc/modules names, runs the command in
 * /etc/command (both one name or argument a line), and reports how that went through the machine's
 * exit port. Without a command it reports at once: the bare boot the lab is measured against. (Not
 * from the kernel's command line, which hands init every word it does not know itself.)
 *
 * The command says on descriptor 3 that it is ready, and waits on descriptor 0 for the job to be in /job.
 * In between QEMU may keep a snapshot of the machine, which another job goes on from. Where modules come later,
 * QEMU has them, and they are loaded after the snapshot: other modules for the same kernel go on from it too.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* What the machine's status says (lab/machines/machine.py knows the same numbers). */
enum { FINISHED = 0x20, NO_MODULE = 0x21, NOT_STARTED = 0x22, FAILED = 0x23 };

#define EXIT_PORT 0xf4
#define BOCHS_PRINT_PORT 0xe9
#define BOCHS_SHUTDOWN_PORT 0x8900
#define RESULTS "/dev/ttyS1"
#define READY 3

/* QEMU's pvpanic, whose two words QEMU passes on: "panicked", and "loaded what is for a crash". */
#define PANIC_PORT 0x505
#define PANICKED 1
#define CRASH_LOADED 2
/* A few hundredths of a second. */
#define HOLD_STILL 40000

/* QEMU's fw_cfg (docs/specs/fw_cfg): files that can be read byte by byte, or a page at a time; numbers in big endian. */
#define FILE_SELECT_PORT 0x510
#define FILE_DATA_PORT 0x511
#define FILE_DMA_PORT 0x514
#define FILE_DMA_READ 2
#define FILE_SIGNATURE 0x0000
#define FILE_DIRECTORY 0x0019
#define MOST_FILES 64
#define JOB_FILE "opt/kvmharness/job"
/* A number and a name follow; in the order of the directory, which is that of the names. */
#define MODULE_FILES "opt/kvmharness/modules/"
#define PAGE 4096
#define JOB "/job"

/* A word of the kernel's command line: how many seconds after its boot the machine begins to play. */
#define PLAYS_AT "kvmharness.plays_at="
/* And one that has KVM loaded before that, and not after. */
#define KVM_FIRST "kvmharness.kvm_first"
/* And one that says that the modules are QEMU's to give. */
#define MODULES_LATER "kvmharness.modules_later"
#define CLOCKSOURCES "/sys/devices/system/clocksource/clocksource0/available_clocksource"
/* The kernel measures again what something disturbed, which takes a second. No machine waits for longer. */
#define CALIBRATED_BY_S 60

static int may_use_ports;

/* Bochs prints what comes to the one port, and ends when it reads this word on the other. */
static void say_to_bochs(int status)
{
	const char *next = "Shutdown";
	char line[40];

	snprintf(line, sizeof(line), "kvmharness init: %#x\n", status);
	outsb(BOCHS_PRINT_PORT, line, strlen(line));
	while (*next)
		outb(*next++, BOCHS_SHUTDOWN_PORT);
}

static void leave(int status)
{
	int results = open(RESULTS, O_WRONLY | O_NOCTTY);

	if (results >= 0)
		tcdrain(results);
	tcdrain(STDOUT_FILENO);
	/* Bochs calls a port drained that has 16 bytes left to send, which take a millisecond and a half. */
	usleep(20000);
	sync();
	if (may_use_ports) {
		/* QEMU ends with the first of these. */
		outb(status, EXIT_PORT);
		say_to_bochs(status);
	}
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void complain(const char *what)
{
	printf("kvmharness init: %s: %s\n", what, strerror(errno));
	fflush(stdout);
}

/* The lines of a file, without their ends, NULL behind the last; none if there is no such file. */
static char **lines_of(const char *path)
{
	static char text[2][8192], *lines[2][64];
	static int used;
	char **found = lines[used], *next = text[used];
	int file = open(path, O_RDONLY | O_CLOEXEC), count = 0;

	used++;
	if (file < 0 || read(file, next, sizeof(text[0]) - 1) < 0)
		return found;
	close(file);
	while (*next && count < 63) {
		found[count++] = next;
		next += strcspn(next, "\n");
		if (*next)
			*next++ = '\0';
	}
	return found;
}

static const char *text_of(const char *path)
{
	static char text[4096];
	int file = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = file < 0 ? 0 : read(file, text, sizeof(text) - 1);

	close(file);
	text[size < 0 ? 0 : size] = '\0';
	return text;
}

/* What the kernel's command line says of a module's parameters (kvm.tsc_tolerance_ppm=0), as modprobe reads it. */
static const char *parameters_of(const char *path)
{
	static char found[4096], line[4096];
	const char *name = strrchr(path, '/') + 1;
	size_t length = strcspn(name, ".");

	snprintf(line, sizeof(line), "%s", text_of("/proc/cmdline"));
	found[0] = '\0';
	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
		if (!strncmp(word, name, length) && word[length] == '.') {
			strcat(found, word + length + 1);
			strcat(found, " ");
		}
	return found;
}

static void load_modules(char **paths)
{
	for (; *paths; paths++) {
		int module = open(*paths, O_RDONLY | O_CLOEXEC);

		if (module < 0 || syscall(SYS_finit_module, module, parameters_of(*paths), 0)) {
			complain(*paths);
			leave(NO_MODULE);
		}
		close(module);
	}
}

/*
 * Until this clocksource goes, the kernel may correct the rate of its TSC (tsc_refine_calibration_work, a second
 * or more after the boot). A KVM that is loaded before that goes on with the rate of then.
 */
static int is_calibrated(void)
{
	return !strstr(text_of(CLOCKSOURCES), "tsc-early");
}

static void wait_until(long seconds)
{
	struct timespec at = { .tv_sec = seconds };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
		;
}

static void wait_to_play(void)
{
	const char *at = strstr(text_of("/proc/cmdline"), PLAYS_AT);
	struct timespec now;

	if (at)
		wait_until(atol(at + strlen(PLAYS_AT)));
	while (!is_calibrated() && !clock_gettime(CLOCK_MONOTONIC, &now) && now.tv_sec < CALIBRATED_BY_S)
		usleep(10000);
}

/*
 * Results are bytes: nothing is to be made of what looks like a line end. Bochs takes the rate at its word. The
 * port stays open, as whoever closes it last shuts it down, and what it has not sent by then is lost.
 */
static void make_results_raw(void)
{
	int results = open(RESULTS, O_WRONLY | O_NOCTTY | O_CLOEXEC);
	struct termios settings;

	if (results >= 0 && !tcgetattr(results, &settings)) {
		cfmakeraw(&settings);
		cfsetspeed(&settings, B115200);
		tcsetattr(results, TCSANOW, &settings);
	}
}

/* Nothing here is secret. Without a CPU that has randomness the kernel would collect it for a second. */
static void seed_random(void)
{
	struct {
		struct rand_pool_info head;
		__u32 words[16];
	} seed = { .head = { .entropy_count = 8 * sizeof(seed.words), .buf_size = sizeof(seed.words) } };
	int random = open("/dev/urandom", O_WRONLY | O_CLOEXEC);

	ioctl(random, RNDADDENTROPY, &seed);
	close(random);
}

/* glibc's insb() does not tell the compiler that it writes to memory. */
static void read_file_data(void *into, unsigned long size)
{
	asm volatile("rep insb" : "+D"(into), "+c"(size) : "d"(FILE_DATA_PORT) : "memory");
}

struct file {
	uint32_t size;
	uint16_t selector, reserved;
	char name[56];
};

/* The files that QEMU has for this machine; their number. Without QEMU there are none. */
static unsigned int files_of_qemu(struct file *files)
{
	char signature[4];
	uint32_t count;

	outw(FILE_SIGNATURE, FILE_SELECT_PORT);
	read_file_data(signature, sizeof(signature));
	if (memcmp(signature, "QEMU", sizeof(signature)))
		return 0;
	outw(FILE_DIRECTORY, FILE_SELECT_PORT);
	read_file_data(&count, sizeof(count));
	count = be32toh(count) < MOST_FILES ? be32toh(count) : MOST_FILES;
	read_file_data(files, count * sizeof(*files));
	return count;
}

/* Puts the job that QEMU has for this machine into its file; where there is none, that stays as it is. */
static void fetch_job(void)
{
	struct file files[MOST_FILES];
	unsigned int count = files_of_qemu(files);

	for (struct file *file = files; file < files + count; file++)
		if (!strncmp(file->name, JOB_FILE, sizeof(file->name))) {
			uint32_t left = be32toh(file->size), part;
			int job = open(JOB, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
			char data[PAGE];

			outw(be16toh(file->selector), FILE_SELECT_PORT);
			for (; left; left -= part) {
				part = left < sizeof(data) ? left : sizeof(data);
				read_file_data(data, part);
				if (write(job, data, part) != part)
					complain(JOB);
			}
			close(job);
			return;
		}
}

/* Where a page lies in the machine's memory (Documentation/admin-guide/mm/pagemap.rst); 0 where that is not shown. */
static uint64_t place_of(const void *page)
{
	int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (pread(map, &entry, sizeof(entry), (uintptr_t)page / PAGE * sizeof(entry)) != sizeof(entry))
		entry = 0;
	close(map);
	return (entry & ((1ULL << 55) - 1)) * PAGE;
}

/*
 * Reads the selected file. Byte by byte, an emulated CPU would take seconds for KVM; QEMU also writes into the
 * machine's memory, here page by page into one whose place is known. True unless that was moved meanwhile.
 */
static int read_pages(char *into, uint32_t size)
{
	struct window {
		char data[PAGE];
		struct {
			uint32_t control, size;
			uint64_t place;
		} order;
	} *window = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
	uint64_t data = place_of(window->data), order = place_of(&window->order);
	uint32_t part;

	if (!data || !order) {
		read_file_data(into, size);
		return 1;
	}
	for (; size; size -= part, into += part) {
		volatile uint32_t *control = &window->order.control;

		part = size < PAGE ? size : PAGE;
		window->order.size = htobe32(part);
		window->order.place = htobe64(data);
		*control = htobe32(FILE_DMA_READ);
		outl(htobe32(order >> 32), FILE_DMA_PORT);
		asm volatile("" : : : "memory");
		outl(htobe32(order), FILE_DMA_PORT + 4);
		asm volatile("" : : : "memory");
		/* QEMU has done it by then, or says that it cannot. */
		if (*control)
			return 0;
		memcpy(into, window->data, part);
	}
	return data == place_of(window->data) && order == place_of(&window->order);
}

/* Loads the modules that QEMU has for this machine. */
static void load_modules_of_qemu(void)
{
	struct file files[MOST_FILES];
	unsigned int count = files_of_qemu(files);

	for (struct file *file = files; file < files + count; file++)
		if (!strncmp(file->name, MODULE_FILES, strlen(MODULE_FILES))) {
			uint32_t size = be32toh(file->size);
			char *module = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

			outw(be16toh(file->selector), FILE_SELECT_PORT);
			if (module == MAP_FAILED || !read_pages(module, size) ||
			    syscall(SYS_init_module, module, size, parameters_of(file->name))) {
				complain(file->name);
				leave(NO_MODULE);
			}
			munmap(module, size);
		}
}

/*
 * Tells QEMU that now is the time for a snapshot, and that it is over. A machine that paused itself here would
 * not be the same after it: QEMU's icount may turn the clock forward before it has noticed that it is to pause.
 */
static void hold_still(void)
{
	volatile int left = HOLD_STILL;

	outb(PANICKED, PANIC_PORT);
	while (left--)
		asm volatile("pause");
	outb(CRASH_LOADED, PANIC_PORT);
}

/* The command's process, and where to tell it that the job is there; it has said by then that it is ready. */
static pid_t start(char **command, int *go_on)
{
	char *environment[] = { "HOME=/", "PATH=/usr/bin:/bin", "LANG=C.UTF-8", NULL };
	int ready[2], go[2];
	char byte;
	pid_t child;

	if (pipe2(ready, O_CLOEXEC) || pipe2(go, O_CLOEXEC))
		return -1;
	child = fork();
	if (!child) {
		dup2(go[0], STDIN_FILENO);
		/* A descriptor that is 3 already would be closed by execve(). */
		if (dup2(ready[1], READY) == READY && ready[1] == READY)
			fcntl(READY, F_SETFD, 0);
		execve(*command, command, environment);
		complain(*command);
		_exit(127);
	}
	close(ready[1]);
	/* Nothing comes from one that died; waitpid() tells. */
	if (child > 0 && read(ready[0], &byte, 1) == 1 && may_use_ports)
		hold_still();
	*go_on = go[1];
	return child;
}

int main(void)
{
	char **command = lines_of("/etc/command");
	int status = 0, go_on = -1, kvm_first, modules_later;
	pid_t child;

	signal(SIGPIPE, SIG_IGN);
	may_use_ports = !iopl(3);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	mount("debug", "/sys/kernel/debug", "debugfs", 0, NULL);
	if (!*command)
		leave(FINISHED);
	seed_random();
	kvm_first = !!strstr(text_of("/proc/cmdline"), KVM_FIRST);
	modules_later = may_use_ports && strstr(text_of("/proc/cmdline"), MODULES_LATER);
	if (!kvm_first)
		wait_to_play();
	load_modules(lines_of("/etc/modules"));
	if (kvm_first)
		wait_to_play();
	make_results_raw();
	child = start(command, &go_on);
	if (modules_later)
		load_modules_of_qemu();
	if (may_use_ports)
		fetch_job();
	if (child > 0 && write(go_on, "", 1) != 1)
		complain("the player");
	if (child < 0 || waitpid(child, &status, 0) != child)
		leave(NOT_STARTED);
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		leave(FINISHED);
	printf("kvmharness init: the player ended with wait status %#x\n", status);
	fflush(stdout);
	leave(WIFEXITED(status) && WEXITSTATUS(status) == 127 ? NOT_STARTED : FAILED);
	return 0;
}
