/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The first process of a lab machine: loads the modules that /etc/modules names, runs the command in
 * /etc/command (both one name or argument a line), and reports how that went through the machine's
 * exit port. Without a command it reports at once: the bare boot the lab is measured against. (Not
 * from the kernel's command line, which hands init every word it does not know itself.)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* What the machine's status says (lab/machine.py knows the same numbers). */
enum { FINISHED = 0x20, NO_MODULE = 0x21, NOT_STARTED = 0x22, FAILED = 0x23 };

#define EXIT_PORT 0xf4
#define BOCHS_PRINT_PORT 0xe9
#define BOCHS_SHUTDOWN_PORT 0x8900
#define RESULTS "/dev/ttyS1"

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
	sync();
	if (!iopl(3)) {
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

static void load_modules(char **paths)
{
	for (; *paths; paths++) {
		int module = open(*paths, O_RDONLY | O_CLOEXEC);

		if (module < 0 || syscall(SYS_finit_module, module, "", 0)) {
			complain(*paths);
			leave(NO_MODULE);
		}
		close(module);
	}
}

/* Results are bytes: nothing is to be made of what looks like a line end. Bochs takes the rate at its word. */
static void make_results_raw(void)
{
	int results = open(RESULTS, O_WRONLY | O_NOCTTY);
	struct termios settings;

	if (results >= 0 && !tcgetattr(results, &settings)) {
		cfmakeraw(&settings);
		cfsetspeed(&settings, B115200);
		tcsetattr(results, TCSANOW, &settings);
	}
	close(results);
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

int main(void)
{
	char **command = lines_of("/etc/command");
	char *environment[] = { "HOME=/", "PATH=/usr/bin:/bin", "LANG=C.UTF-8", NULL };
	int status = 0;
	pid_t child;

	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	if (!*command)
		leave(FINISHED);
	seed_random();
	load_modules(lines_of("/etc/modules"));
	make_results_raw();
	child = fork();
	if (!child) {
		execve(*command, command, environment);
		complain(*command);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		leave(NOT_STARTED);
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		leave(FINISHED);
	printf("kvmharness init: the player ended with wait status %#x\n", status);
	fflush(stdout);
	leave(WIFEXITED(status) && WEXITSTATUS(status) == 127 ? NOT_STARTED : FAILED);
	return 0;
}
