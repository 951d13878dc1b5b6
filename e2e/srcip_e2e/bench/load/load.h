/* What the parts of load share. */
#ifndef LOAD_H
#define LOAD_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FDS = 1 << 17, EVENTS = 256, CHUNK = 1 << 18, MAX_HEADER = 128, MAX_ERRORS = 1000 };
enum { HTTP_BODY = 512, HTTP_LONGEST = 4096 };
/* Ports of the server, counted from its first. */
enum { ON_ECHO, ON_SINK, ON_SOURCE, ON_PEER, ON_HTTP, ON_SEEN, PORTS };

extern char chunk[CHUNK];
void die(const char *what);
void usage(const char *what, const char *value);
uint64_t now_ns(void);
long number(const char *key, const char *text, long low, long high);

void serve(int port);
void client(char **argv);

struct head {
	uint8_t begun, matched; /* `matched`: bytes of the empty line at its end, in a row; 4 when it has ended */
};
extern char http_response[];
extern size_t http_response_size;
void http_prepare(void);
size_t http_request(char *out, const char *host, int forged);
ssize_t http_end(uint8_t *matched, const char *data, ssize_t n);
int64_t http_wanted(struct head *h, int64_t wanted, const char *data, ssize_t n);
int http_answer(const char *text, char **body);

#endif
