/* Before the C library of a process: its clock on the wall can be set, and its disk can be full
 * (LD_PRELOAD; see chaos_machine.py). Neither takes any rights, and no other process notices. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct state {
    int64_t ahead; /* nanoseconds */
    int64_t full;
};

static const volatile struct state *state;
static const char *disk = ""; /* the folder that is full */

__attribute__((constructor)) static void begin(void)
{
    const char *file = getenv("CHAOS_STATE"), *folder = getenv("CHAOS_DISK");
    int handle = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
    if (handle < 0)
        return;
    void *found = mmap(NULL, sizeof(struct state), PROT_READ, MAP_SHARED, handle, 0);
    close(handle);
    if (found != MAP_FAILED)
        state = found;
    if (folder)
        disk = strdup(folder);
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    long failed = syscall(SYS_clock_gettime, clock, at);
    if (!failed && state && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t now = (int64_t)at->tv_sec * 1000000000 + at->tv_nsec + state->ahead;
        at->tv_sec = now / 1000000000;
        at->tv_nsec = now % 1000000000;
    }
    return (int)failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now))
        return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}

static int has_no_room(int handle)
{
    char link[64], path[4096];
    if (!state || !state->full || !*disk)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 0 && !strncmp(path, disk, strlen(disk));
}

ssize_t write(int handle, const void *data, size_t count)
{
    if (has_no_room(handle)) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_write, handle, data, count);
}

ssize_t pwrite64(int handle, const void *data, size_t count, off64_t offset)
{
    if (has_no_room(handle)) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_pwrite64, handle, data, count, offset);
}
