/* What runs inside a sandbox to measure against: starting programs and sending
 * bytes, with nothing of ours in between. Prints nanoseconds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static pid_t start(void)
{
    char *args[] = { "/bin/true", NULL };
    char *env[] = { NULL };
    pid_t pid;
    /* glibc uses vfork for this. */
    if (posix_spawn(&pid, args[0], NULL, NULL, args, env) != 0)
        exit(1);
    return pid;
}

/* One after the other; a time for each. */
static void spawn_each(int count)
{
    for (int i = 0; i < count; i++) {
        long long begun = now();
        waitpid(start(), NULL, 0);
        printf("%lld\n", now() - begun);
    }
}

/* All, then wait for all; one time. */
static void spawn_all(int count)
{
    long long begun = now();
    for (int i = 0; i < count; i++)
        start();
    while (wait(NULL) > 0)
        ;
    printf("%lld\n", now() - begun);
}

/* Sends so many bytes to the first who connects. */
static void serve(int port, long long bytes)
{
    static char block[1 << 20];
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1) != 0)
        exit(1);
    puts("listening");
    fflush(stdout);
    int peer = accept(listener, NULL, NULL);
    while (bytes > 0) {
        ssize_t sent = write(peer, block, bytes < (long long)sizeof block ? (size_t)bytes : sizeof block);
        if (sent <= 0)
            exit(1);
        bytes -= sent;
    }
}

/* The same bytes to stdout. */
static void print(long long bytes)
{
    static char block[1 << 20];
    while (bytes > 0) {
        ssize_t sent = write(1, block, bytes < (long long)sizeof block ? (size_t)bytes : sizeof block);
        if (sent <= 0)
            exit(1);
        bytes -= sent;
    }
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "each") == 0)
        spawn_each(atoi(argv[2]));
    else if (argc == 3 && strcmp(argv[1], "all") == 0)
        spawn_all(atoi(argv[2]));
    else if (argc == 4 && strcmp(argv[1], "serve") == 0)
        serve(atoi(argv[2]), atoll(argv[3]));
    else if (argc == 3 && strcmp(argv[1], "print") == 0)
        print(atoll(argv[2]));
    else
        return 2;
    return 0;
}
