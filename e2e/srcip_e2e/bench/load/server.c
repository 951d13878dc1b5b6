/* The server: one port for each thing that it does with a connection. */
#include "load.h"

/* ---- server: what a connection is owed ------------------------------------------------------------------- */

enum role { NONE, LISTEN, ECHO, SINK, SOURCE, PEER, HTTP, SEEN }; /* from ECHO in the order of the ports */
struct served {
	uint8_t role, answers; /* for LISTEN: the role of what it accepts */
	struct head head;      /* of an HTTP request that is not whole yet */
	uint64_t owed;
};
static struct served served[MAX_FDS];

static void add(int poll, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.fd = fd};
	if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event))
		die("epoll_ctl");
}

static void listen_on(int poll, int family, int port, enum role answers)
{
	int on = 1, fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
	if (fd < 0 && family == AF_INET6)
		return; /* a machine without IPv6 */
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	if (bind(fd, family == AF_INET ? (void *)&four : (void *)&six, family == AF_INET ? sizeof four : sizeof six) ||
	    listen(fd, 4096))
		die("listen");
	served[fd] = (struct served){LISTEN, answers, {0, 0}, 0};
	add(poll, fd, EPOLLIN);
}

static void accept_all(int poll, int listener)
{
	int fd, on = 1;
	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		if (fd >= MAX_FDS) {
			close(fd);
			continue;
		}
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		served[fd] = (struct served){served[listener].answers, 0, {0, 0}, 0};
		add(poll, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
	}
}

/* Pay what is owed; false once the connection is over. */
static int pay(int fd, struct served *s)
{
	while (s->owed) {
		const char *from = chunk;
		size_t size = s->owed < CHUNK ? s->owed : CHUNK;
		if (s->role == HTTP) { /* one response, or what is left of it */
			size = (s->owed - 1) % http_response_size + 1;
			from = http_response + http_response_size - size;
		}
		ssize_t n = send(fd, from, size, MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN;
		s->owed -= (uint64_t)n;
	}
	return 1;
}

static void tell_peer(int fd)
{
	struct sockaddr_storage peer;
	socklen_t size = sizeof peer;
	char host[INET6_ADDRSTRLEN], text[INET6_ADDRSTRLEN + 16];
	if (getpeername(fd, (void *)&peer, &size))
		return;
	struct sockaddr_in *four = (void *)&peer;
	struct sockaddr_in6 *six = (void *)&peer;
	int is6 = peer.ss_family == AF_INET6;
	inet_ntop(peer.ss_family, is6 ? (void *)&six->sin6_addr : (void *)&four->sin_addr, host, sizeof host);
	int n = snprintf(text, sizeof text, is6 ? "[%s]:%u" : "%s:%u", host, ntohs(is6 ? six->sin6_port : four->sin_port));
	(void)!send(fd, text, (size_t)n, MSG_NOSIGNAL);
}

/* Answer a request with its own head as it came. It stays in the kernel until it is whole. */
static int tell_head(int fd)
{
	static char text[2 * HTTP_LONGEST];
	uint8_t matched = 0;
	ssize_t n = recv(fd, text, HTTP_LONGEST, MSG_PEEK), size = http_end(&matched, text, n);
	if (size < 0)
		return n > 0 || (n < 0 && errno == EAGAIN);
	(void)!recv(fd, text, (size_t)size, 0);
	char answer[sizeof text];
	int length = snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %zd\r\n\r\n%.*s", size, (int)size, text);
	return send(fd, answer, (size_t)length, MSG_NOSIGNAL) == length;
}

/* What these bytes ask for; 0 when no client sends them, such as the header of a relay that did not take it out. */
static int owe(struct served *s, ssize_t n)
{
	if (s->role == ECHO)
		s->owed += (uint64_t)n;
	if (s->role == SOURCE)
		s->owed = UINT64_MAX;
	for (char *at = chunk; s->role == HTTP && at < chunk + n;) {
		if (!s->head.begun && *at != 'G')
			return 0;
		ssize_t size = http_end(&s->head.matched, at, chunk + n - at);
		s->head.begun = 1;
		if (size < 0)
			break;
		s->head = (struct head){0, 0};
		s->owed += http_response_size;
		at += size;
	}
	return 1;
}

static int take(int fd, struct served *s)
{
	for (;;) {
		if (s->role == SEEN)
			return tell_head(fd);
		ssize_t n = recv(fd, chunk, s->role == SINK ? CHUNK : CHUNK / 4, 0);
		if (n < 0)
			return errno == EAGAIN;
		if (n == 0) {
			if (s->role == SINK) /* the sink says that it has everything */
				(void)!send(fd, chunk, 1, MSG_NOSIGNAL);
			return 0;
		}
		if (s->role == PEER) {
			tell_peer(fd);
			return 0;
		}
		if (!owe(s, n))
			return 0;
		if (s->role != SINK) {
			if (!pay(fd, s))
				return 0;
			if (n < CHUNK / 4) /* drained: a later byte is a later edge */
				return 1;
		}
	}
}

void serve(int port)
{
	int poll = epoll_create1(0);
	struct epoll_event events[EVENTS];
	http_prepare();
	for (int i = 0; i < PORTS; i++) {
		listen_on(poll, AF_INET, port + i, (enum role)(ECHO + i));
		listen_on(poll, AF_INET6, port + i, (enum role)(ECHO + i));
	}
	puts("ready");
	fflush(stdout);
	for (;;) {
		int count = epoll_wait(poll, events, EVENTS, -1);
		for (int i = 0; i < count; i++) {
			int fd = events[i].data.fd, alive = 1;
			struct served *s = &served[fd];
			if (s->role == LISTEN) {
				accept_all(poll, fd);
				continue;
			}
			if (s->owed)
				alive = pay(fd, s);
			if (alive && events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
				alive = take(fd, s);
			if (alive && events[i].events & (EPOLLHUP | EPOLLERR))
				alive = 0;
			/* the rest of an edge that brought data and the end together */
			if (alive && events[i].events & EPOLLRDHUP && !s->owed)
				alive = take(fd, s);
			if (!alive)
				close(fd);
		}
	}
}

