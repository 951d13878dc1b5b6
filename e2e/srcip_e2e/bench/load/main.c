/* load: both ends of the benchmark, made to cost less than anything that is measured between them.
 *
 *   load server PORT            echo on PORT, sink on + 1, source on + 2, on + 3 the peer's address, on + 4 HTTP,
 *                               on + 5 HTTP whose answer is the head of the request; IPv4 and IPv6
 *   load client MODE key=value  one run against such a server; prints one line of JSON
 *
 * Modes of the client:
 *   connect    n connections at once, each: connect, header and request in one segment, response, close
 *   request    n open connections, each with one request in flight
 *   up, down   n connections, bytes as fast as they go, to the sink or from the source
 *   peer       one connection; prints the address that the server sees
 *   seen       one connection with a request of HTTP; prints its head as the server got it
 *   idle       opens n connections, asks once on each, prints, and holds them until its input ends
 *
 * With http=1, connect, request and idle speak HTTP/1.1. connect ends after `most` connections, and begins no more
 * than `rate` a second.
 *
 * One thread, epoll, no allocation once it runs. The bytes of a response are counted, not compared: the
 * server owes as many bytes as it was sent, or one answer of known length for each request of HTTP.
 */
#include "load.h"

char chunk[CHUNK];

void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

void usage(const char *what, const char *value)
{
	fprintf(stderr, "load: %s: %s\n", what, value);
	exit(2);
}

uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

long number(const char *key, const char *text, long low, long high)
{
	char *end;
	errno = 0;
	long value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < low || value > high)
		usage(key, text);
	return value;
}

int main(int argc, char **argv)
{
	struct rlimit files;
	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (argc == 3 && !strcmp(argv[1], "server"))
		serve((int)number("port", argv[2], 1, 65536 - PORTS));
	else if (argc > 2 && !strcmp(argv[1], "client"))
		client(argv + 2);
	else
		usage("usage", "load server PORT | load client MODE key=value ...");
	return 0;
}
