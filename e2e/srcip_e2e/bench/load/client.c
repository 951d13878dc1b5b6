/* The client: connections that ask, send or hold, one request in flight on each. */
#include "load.h"

/* ---- latency: logarithmic buckets, 32 for each power of two, so within 3 % ------------------------------ */

enum { SUB = 32, BUCKETS = 64 * SUB };
static uint64_t histogram[BUCKETS], samples;

static void record(uint64_t ns)
{
	int shift = ns < SUB ? 0 : 58 - __builtin_clzll(ns);
	histogram[ns < SUB ? ns : (uint64_t)(shift + 1) * SUB + ((ns >> shift) & (SUB - 1))]++;
	samples++;
}

static double percentile_us(double share)
{
	uint64_t wanted = (uint64_t)((double)samples * share), seen = 0;
	for (int i = 0; i < BUCKETS; i++)
		if (histogram[i] && (seen += histogram[i]) > wanted) {
			uint64_t low = i < SUB ? (uint64_t)i : (uint64_t)(SUB + i % SUB) << (i / SUB - 1); /* inverse of record() */
			return (double)low / 1e3;
		}
	return 0;
}

/* ---- client ---------------------------------------------------------------------------------------------- */

static struct {
	const char *mode;
	struct sockaddr_storage to, from;
	long port, count, size, proxy, sources, http, most, rate;
	uint64_t seed;
	double seconds;
} o = {.port = 8080, .count = 1, .size = 64, .sources = 1, .seconds = 1};

struct conn {
	int fd;
	uint8_t connected;
	int64_t wanted; /* bytes of the response still to come; of its body, where it is HTTP */
	struct head head;
	uint64_t begun;
};
static struct conn conns[MAX_FDS];
static uint64_t serial, claims, errors, done, bytes;
static int last_errno;
static char request[1 << 16]; /* zeros, or a request of HTTP */

static socklen_t length(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static void address(const char *key, const char *text, struct sockaddr_storage *a)
{
	struct sockaddr_in *four = (void *)a;
	struct sockaddr_in6 *six = (void *)a;
	if (inet_pton(AF_INET, text, &four->sin_addr) == 1)
		a->ss_family = AF_INET;
	else if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1)
		a->ss_family = AF_INET6;
	else
		usage(key, text);
}

/* The address `by` further on, in its last four bytes. */
static void advance(struct sockaddr_storage *a, uint32_t by)
{
	uint8_t *last = a->ss_family == AF_INET ? (uint8_t *)&((struct sockaddr_in *)a)->sin_addr
	                                        : (uint8_t *)&((struct sockaddr_in6 *)a)->sin6_addr + 12;
	uint32_t value;
	memcpy(&value, last, 4);
	value = htonl(ntohl(value) + by);
	memcpy(last, &value, 4);
}

/* A PROXY header that claims the client with this serial number: 1,024 addresses of 198.18.0.0/15 (or of
 * 2001:db8::/32), and on each the ports 1024 to 65535. No two connections of a benchmark claim the same. */
static size_t header(char *out, uint64_t n)
{
	int six = o.to.ss_family == AF_INET6;
	struct sockaddr_storage client = {0};
	char from[INET6_ADDRSTRLEN], to[INET6_ADDRSTRLEN];
	uint16_t port = (uint16_t)(1024 + n / 1024 % 64512);
	const void *to_raw = six ? (void *)&((struct sockaddr_in6 *)&o.to)->sin6_addr
	                         : (void *)&((struct sockaddr_in *)&o.to)->sin_addr;
	address("client", six ? "2001:db8::" : "198.18.0.0", &client);
	advance(&client, (uint32_t)(1 + n % 1024));
	const void *from_raw = six ? (void *)&((struct sockaddr_in6 *)&client)->sin6_addr
	                           : (void *)&((struct sockaddr_in *)&client)->sin_addr;
	if (o.proxy == 0)
		return 0;
	if (o.proxy == 1) {
		inet_ntop(client.ss_family, from_raw, from, sizeof from);
		inet_ntop(o.to.ss_family, to_raw, to, sizeof to);
		return (size_t)snprintf(out, MAX_HEADER, "PROXY TCP%d %s %s %u %ld\r\n", six ? 6 : 4, from, to, port, o.port);
	}
	size_t width = six ? 16 : 4;
	uint16_t ports[] = {htons(port), htons((uint16_t)o.port)}, rest = htons((uint16_t)(2 * width + 4));
	memcpy(out, "\r\n\r\n\0\r\nQUIT\n\x21", 13);
	out[13] = six ? 0x21 : 0x11;
	memcpy(out + 14, &rest, 2);
	memcpy(out + 16, from_raw, width);
	memcpy(out + 16 + width, to_raw, width);
	memcpy(out + 16 + 2 * width, ports, 4);
	return 20 + 2 * width;
}

static void expect(struct conn *c)
{
	c->head = (struct head){0, 0};
	c->wanted = o.http ? HTTP_BODY : o.size;
}

/* Connections come from `sources` addresses in turn, and the kernel picks the port only at connect: ports
 * are then unique per four-tuple and do not run out. */
static void start(int poll, struct conn *c)
{
	int on = 1;
	struct sockaddr_storage from = o.from;
	c->begun = now_ns();
	c->connected = 0;
	expect(c);
	c->fd = socket(o.to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		die("socket");
	if (from.ss_family) {
		advance(&from, (uint32_t)(serial % (uint64_t)o.sources));
		setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
		if (bind(c->fd, (void *)&from, length(&from)))
			die("bind");
	}
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (connect(c->fd, (void *)&o.to, length(&o.to)) && errno != EINPROGRESS)
		die("connect");
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
	if (epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event))
		die("epoll_ctl");
	serial++;
}

static int failed(struct conn *c, int error)
{
	last_errno = error;
	if (++errors > MAX_ERRORS) {
		errno = error;
		die("too many failed connections, the last one");
	}
	close(c->fd);
	c->fd = -1;
	return 0;
}

/* Header and first request in one segment. A bulk connection sends one byte so that the far end knows it. */
static int greet(struct conn *c, long size)
{
	static char out[MAX_HEADER + sizeof request];
	size_t head = header(out, o.seed + claims++);
	memcpy(out + head, request, (size_t)size);
	ssize_t sent = send(c->fd, out, head + (size_t)size, MSG_NOSIGNAL);
	if (sent == (ssize_t)(head + (size_t)size))
		return c->connected = 1;
	return failed(c, sent < 0 ? errno : EMSGSIZE);
}

/* One response: 1 when it is whole, 0 when more is to come, -1 when the connection failed. */
static int receive(struct conn *c)
{
	while (c->wanted > 0) {
		ssize_t n = recv(c->fd, chunk, CHUNK, 0);
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n <= 0) {
			failed(c, n ? errno : ECONNRESET);
			return -1;
		}
		c->wanted = o.http ? http_wanted(&c->head, c->wanted, chunk, n) : c->wanted - n;
	}
	if (c->wanted < 0) { /* not the answer to the request: the server was sent the header, too */
		failed(c, EBADMSG);
		return -1;
	}
	uint64_t end = now_ns();
	record(end - c->begun);
	done++;
	return 1;
}

/* What the event makes of a connection in the modes connect and request: 1 response is whole, -1 failed. */
static int step(struct conn *c, uint32_t events)
{
	if (!c->connected) {
		if (events & (EPOLLERR | EPOLLHUP)) {
			int error = 0;
			socklen_t size = sizeof error;
			getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
			failed(c, error ? error : ECONNRESET);
			return -1;
		}
		if (!(events & EPOLLOUT))
			return 0;
		if (!greet(c, o.size))
			return -1;
	}
	return events & (EPOLLIN | EPOLLERR | EPOLLHUP) ? receive(c) : 0;
}

/* Whether one more connection is to begin: no more than `most` in all, and than `rate` in each second so far. */
static int is_due(uint64_t begun)
{
	if (o.most && serial >= (uint64_t)o.most)
		return 0;
	return !o.rate || (double)serial < (double)(now_ns() - begun) / 1e9 * (double)o.rate;
}

static void run_connect(int poll, uint64_t stop)
{
	static struct conn *idle[MAX_FDS];
	struct epoll_event events[EVENTS];
	uint64_t begun = now_ns();
	long resting = 0;
	for (long i = 0; i < o.count; i++)
		idle[resting++] = &conns[i];
	while (now_ns() < stop && (!o.most || done + errors < (uint64_t)o.most)) {
		while (resting && is_due(begun))
			start(poll, idle[--resting]);
		int n = epoll_wait(poll, events, EVENTS, o.rate ? 1 : 100);
		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;
			int result = step(c, events[i].events);
			if (result > 0)
				close(c->fd);
			if (result)
				idle[resting++] = c;
		}
	}
}

/* Open all connections and ask once on each, a bounded number at a time; then `again` keeps asking. */
static int run_open(int poll)
{
	struct epoll_event events[EVENTS];
	long opened = 0, answered = 0;
	uint64_t limit = now_ns() + 30000000000u;
	while (answered < o.count && now_ns() < limit) {
		while (opened < o.count && opened - answered < 64)
			start(poll, &conns[opened++]);
		int n = epoll_wait(poll, events, EVENTS, 100);
		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;
			int result = step(c, events[i].events);
			if (result < 0)
				start(poll, c);
			if (result > 0)
				answered++;
		}
	}
	memset(histogram, 0, sizeof histogram);
	samples = done = 0;
	return answered == o.count;
}

static void ask(struct conn *c)
{
	c->begun = now_ns();
	expect(c);
	if (send(c->fd, request, (size_t)o.size, MSG_NOSIGNAL) != o.size)
		failed(c, errno);
}

static void run_request(int poll, uint64_t stop)
{
	struct epoll_event events[EVENTS];
	for (long i = 0; i < o.count; i++)
		ask(&conns[i]);
	while (now_ns() < stop && errors < (uint64_t)o.count) {
		int n = epoll_wait(poll, events, EVENTS, 100);
		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;
			if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP) && receive(c) > 0)
				ask(c);
		}
	}
}

/* Bulk either way. `up` counts what the sink has acknowledged at its end; `down` what arrived in time. */
static void run_bulk(int poll, uint64_t stop, int up)
{
	struct epoll_event events[EVENTS];
	long open = o.count;
	int stopped = 0;
	for (long i = 0; i < o.count; i++)
		start(poll, &conns[i]);
	while (open > 0 && (up ? now_ns() < stop + 5000000000u : now_ns() < stop)) {
		int n = epoll_wait(poll, events, EVENTS, 50);
		if (up && !stopped && now_ns() >= stop) {
			stopped = 1;
			for (long i = 0; i < o.count; i++)
				shutdown(conns[i].fd, SHUT_WR);
		}
		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;
			ssize_t moved = 1;
			if (c->fd < 0 || (!c->connected && !greet(c, 1)))
				continue;
			while (up && !stopped && moved > 0 && now_ns() < stop) {
				moved = send(c->fd, chunk, CHUNK, MSG_NOSIGNAL);
				bytes += moved > 0 ? (uint64_t)moved : 0;
			}
			while (!up && moved > 0 && now_ns() < stop) {
				moved = recv(c->fd, chunk, CHUNK, 0);
				bytes += moved > 0 ? (uint64_t)moved : 0;
			}
			if (up && events[i].events & EPOLLIN && recv(c->fd, chunk, 1, 0) == 1) {
				close(c->fd);
				c->fd = -1;
				open--;
			}
		}
	}
	if (up && open)
		errors += (uint64_t)open;
}

static void run_peer(int poll)
{
	struct epoll_event event;
	struct conn *c = &conns[0];
	char text[128];
	ssize_t n = 0;
	start(poll, c);
	while (epoll_wait(poll, &event, 1, 5000) == 1 && c->fd >= 0) {
		if (!c->connected && !greet(c, 1))
			return;
		if (event.events & (EPOLLIN | EPOLLHUP | EPOLLERR) && (n = recv(c->fd, text, sizeof text - 1, 0)) > 0) {
			printf("{\"mode\":\"peer\",\"seen\":\"%.*s\"}\n", (int)n, text);
			return;
		}
		if (event.events & (EPOLLHUP | EPOLLERR))
			return;
	}
}

static void print_quoted(const char *text)
{
	putchar('"');
	for (; *text; text++)
		printf(*text == '"' || *text == '\\' ? "\\%c" : *text < ' ' ? "\\u%04x" : "%c", *text);
	putchar('"');
}

/* One request with headers that a client forged; prints what the server got. */
static void run_seen(int poll)
{
	struct epoll_event event;
	struct conn *c = &conns[0];
	char text[2 * HTTP_LONGEST] = "", *body = NULL;
	ssize_t n = 0, all = 0;
	start(poll, c);
	while (!body && c->fd >= 0 && epoll_wait(poll, &event, 1, 5000) == 1) {
		if (!c->connected && !greet(c, o.size))
			return;
		while ((n = recv(c->fd, text + all, sizeof text - 1 - (size_t)all, 0)) > 0)
			text[all += n] = 0;
		if (!http_answer(text, &body) && !(n < 0 && errno == EAGAIN))
			return;
	}
	if (!body)
		return;
	printf("{\"mode\":\"seen\",\"seen\":");
	print_quoted(body);
	puts("}");
}

static void option(char *text)
{
	char *value = strchr(text, '=');
	if (!value)
		usage("key=value expected", text);
	*value++ = 0;
	if (!strcmp(text, "to"))
		address(text, value, &o.to);
	else if (!strcmp(text, "from"))
		address(text, value, &o.from);
	else if (!strcmp(text, "port"))
		o.port = number(text, value, 1, 65536 - PORTS);
	else if (!strcmp(text, "n"))
		o.count = number(text, value, 1, MAX_FDS - 64);
	else if (!strcmp(text, "size"))
		o.size = number(text, value, 1, 1 << 16);
	else if (!strcmp(text, "proxy"))
		o.proxy = number(text, value, 0, 2);
	else if (!strcmp(text, "http"))
		o.http = number(text, value, 0, 1);
	else if (!strcmp(text, "sources"))
		o.sources = number(text, value, 1, 256);
	else if (!strcmp(text, "seed"))
		o.seed = (uint64_t)number(text, value, 0, 1L << 40);
	else if (!strcmp(text, "most"))
		o.most = number(text, value, 1, 1L << 31);
	else if (!strcmp(text, "rate"))
		o.rate = number(text, value, 1, 1L << 31);
	else if (!strcmp(text, "ms"))
		o.seconds = (double)number(text, value, 1, 600000) / 1e3;
	else
		usage("unknown option", text);
}

static void prepare_request(int forged)
{
	char host[INET6_ADDRSTRLEN], name[INET6_ADDRSTRLEN + 16];
	int six = o.to.ss_family == AF_INET6;
	inet_ntop(o.to.ss_family, six ? (void *)&((struct sockaddr_in6 *)&o.to)->sin6_addr : (void *)&((struct sockaddr_in *)&o.to)->sin_addr,
	          host, sizeof host);
	snprintf(name, sizeof name, six ? "[%s]:%ld" : "%s:%ld", host, o.port);
	o.size = (long)http_request(request, name, forged);
}

void client(char **argv)
{
	o.mode = *argv++;
	for (; *argv; argv++)
		option(*argv);
	if (!o.to.ss_family)
		usage("needs", "to=ADDRESS");
	int bulk = !strcmp(o.mode, "up") ? 1 : !strcmp(o.mode, "down") ? 2 : 0;
	int peer = !strcmp(o.mode, "peer"), seen = !strcmp(o.mode, "seen");
	o.port += bulk == 1 ? ON_SINK : bulk ? ON_SOURCE : peer ? ON_PEER : seen ? ON_SEEN : o.http ? ON_HTTP : ON_ECHO;
	if (o.http || seen)
		prepare_request(seen);
	if (o.to.ss_family == AF_INET)
		((struct sockaddr_in *)&o.to)->sin_port = htons((uint16_t)o.port);
	else
		((struct sockaddr_in6 *)&o.to)->sin6_port = htons((uint16_t)o.port);
	int poll = epoll_create1(0), opened = 1;
	int standing = !strcmp(o.mode, "request") || !strcmp(o.mode, "idle");
	if (peer) {
		run_peer(poll);
		return;
	}
	if (seen) {
		run_seen(poll);
		return;
	}
	if (standing)
		opened = run_open(poll);
	uint64_t begin = now_ns(), stop = begin + (uint64_t)(o.seconds * 1e9);
	if (!strcmp(o.mode, "connect"))
		run_connect(poll, stop);
	else if (!strcmp(o.mode, "request"))
		run_request(poll, stop);
	else if (bulk)
		run_bulk(poll, stop, bulk == 1);
	else if (strcmp(o.mode, "idle"))
		usage("unknown mode", o.mode);
	double seconds = (double)(now_ns() - begin) / 1e9;
	struct rusage r;
	getrusage(RUSAGE_SELF, &r);
	double cpu = (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
	printf("{\"mode\":\"%s\",\"seconds\":%.4f,\"done\":%llu,\"per_second\":%.1f,\"mb_per_second\":%.1f,"
	       "\"p50_us\":%.1f,\"p99_us\":%.1f,\"opened\":%s,\"connections\":%llu,\"errors\":%llu,\"last_error\":\"%s\",\"cpu_s\":%.3f}\n",
	       o.mode, seconds, (unsigned long long)done, (double)done / seconds, (double)bytes / 1e6 / seconds,
	       percentile_us(.5), percentile_us(.99), opened ? "true" : "false", (unsigned long long)serial,
	       (unsigned long long)errors, last_errno ? strerror(last_errno) : "", cpu);
	fflush(stdout);
	if (!strcmp(o.mode, "idle"))
		while (read(0, chunk, CHUNK) > 0)
			;
}

