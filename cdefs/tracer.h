/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Recording a VMM: its KVM ioctls, seen from outside through ptrace(2). */

/* How far a recording is. All of it may be read from another thread while the recording goes on. */
struct recording {
	uint64_t lines;   /* written so far */
	uint64_t ioctls;  /* recorded so far; many KVM_RUN may share a line */
	uint32_t vms;     /* that were seen so far */
	uint32_t vcpus;
	uint32_t threads;
	uint32_t traced;  /* threads that live */
	int write_error;  /* errno of the first write that failed, or 0; nothing is written after it */
	int exit_status;  /* of the command, as wait(2) has it; -1 while there is none */
	uint64_t ns_start; /* CLOCK_MONOTONIC_RAW where the recording counts from */
};

/*
 * Run a command, argv ending in NULL, and record it and its children until all have ended, as lines to
 * the file `output`. 0, or -errno: the command could not be started. The command dies with the caller.
 */
int record_command(char **argv, int output, struct recording *recording);

/*
 * Record a process and its children until all have ended, or the caller gets SIGINT, SIGTERM or SIGHUP.
 * 0, or -errno: it cannot be traced. The process goes on after the recording, also if the caller dies.
 */
int record_process(int pid, int output, struct recording *recording);
