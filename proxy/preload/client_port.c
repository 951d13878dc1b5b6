/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bind() and connect() for HAProxy: a client's port is used without being taken from the Pod's own connections.
 *
 * The sidecar connects to the application from the client's address and port. A port that bind() has reserved is no
 * longer chosen for any other connection of the network namespace, whatever its address (__inet_hash_connect() in
 * net/ipv4/inet_hashtables.c), and it stays reserved in TIME_WAIT. A client that goes through the ports of
 * net.ipv4.ip_local_port_range would so cut the application off from its database.
 *
 * Since Linux 6.3, IP_LOCAL_PORT_RANGE (ip(7)) can be narrowed to the one port, and IP_BIND_ADDRESS_NO_PORT leaves it to
 * connect() to take it. connect() compares whole connections, so others go on using the same port towards other peers.
 * Older kernels refuse the option. There, only so many ports are reserved in the time that TIME_WAIT lasts; beyond that
 * the port counts as in use.
 *
 * Where a client's port is in use, bind() says nothing and connect() that it was refused: HAProxy then goes on to the server
 * that leaves the port to the kernel. Of a bind() that fails it would log an alert, "Aborting", for a connection that goes on.
 *
 * It is loaded by /etc/ld.so.preload, as the dynamic linker ignores LD_PRELOAD for a binary with file capabilities.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_LOCAL_PORT_RANGE /* linux/in.h */
#define IP_LOCAL_PORT_RANGE 51
#endif

#define EXPORTED __attribute__((visibility("default")))
#define PORTS 65536
#define TIME_WAIT_S 60 /* TCP_TIMEWAIT_LEN */
#define FILES (1 << 20) /* more file descriptors than HAProxy has (plan/model.py, max_connections); others fail in bind() */
#define RANGE "/proc/sys/net/ipv4/ip_local_port_range"
#define RESERVED "/proc/sys/net/ipv4/ip_local_reserved_ports"

union address {
	struct sockaddr any;
	struct sockaddr_in ipv4;
	struct sockaddr_in6 ipv6;
};

/* What the kernel chooses ports from, as it was a second ago at most. */
struct ports {
	time_t read_at;
	uint16_t first, last;
	uint8_t reserved[PORTS / 8];
};

/* How many ports all threads have reserved in each of the last seconds. */
struct reservations {
	pthread_mutex_t lock;
	time_t second[TIME_WAIT_S];
	uint32_t count[TIME_WAIT_S];
};

static _Thread_local struct ports ports;
static struct reservations reservations = { .lock = PTHREAD_MUTEX_INITIALIZER };
/* The sockets whose bind() found the client's port in use. */
static _Atomic uint8_t in_use[FILES];

static time_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
	return time.tv_sec + 1; /* never 0, which says that nothing was read yet */
}

static ssize_t read_file(const char *path, char *text, size_t size)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = file < 0 ? -1 : read(file, text, size - 1);

	if (file >= 0)
		close(file);
	text[length < 0 ? 0 : length] = 0;
	return length;
}

/* "32768 60999". Without the file no port counts as one that the kernel chooses, and bind() is as it was. */
static void read_range(void)
{
	char text[32], *rest;

	ports.first = 1;
	ports.last = 0;
	if (read_file(RANGE, text, sizeof(text)) <= 0)
		return;
	ports.first = strtoul(text, &rest, 10);
	ports.last = strtoul(rest, NULL, 10);
}

/* "8080,9000-9100": the kernel chooses none of these, and connect() refuses them. */
static void read_reserved(void)
{
	static _Thread_local char text[1 << 16];
	char *at = text;

	memset(ports.reserved, 0, sizeof(ports.reserved));
	read_file(RESERVED, text, sizeof(text));
	while (*at >= '0' && *at <= '9') {
		unsigned long first = strtoul(at, &at, 10);
		unsigned long last = *at == '-' ? strtoul(at + 1, &at, 10) : first;

		for (unsigned long port = first; port <= last && port < PORTS; port++)
			ports.reserved[port / 8] |= 1 << port % 8;
		at += *at == ',';
	}
}

/* Whether the kernel would choose this port for a connection of the Pod. */
static int is_chosen_from(uint16_t port)
{
	time_t second = now();

	if (ports.read_at != second) {
		read_range();
		read_reserved();
		ports.read_at = second;
	}
	return ports.first <= port && port <= ports.last && !(ports.reserved[port / 8] & 1 << port % 8);
}

/* A third of the ports may be reserved; the connections that are open have as much again, by srcip.io/max-connections. */
static int has_room(void)
{
	time_t second = now();
	uint32_t total = 0, most = (ports.last - ports.first + 1) / 3;
	size_t slot = second % TIME_WAIT_S;

	pthread_mutex_lock(&reservations.lock);
	if (reservations.second[slot] != second) {
		reservations.second[slot] = second;
		reservations.count[slot] = 0;
	}
	for (size_t i = 0; i < TIME_WAIT_S; i++)
		total += second - reservations.second[i] < TIME_WAIT_S ? reservations.count[i] : 0;
	reservations.count[slot] += total < most;
	pthread_mutex_unlock(&reservations.lock);
	return total < most;
}

/* The port of an address of a client: srcip's listeners are on loopback or on all addresses. */
static in_port_t *client_port(int fd, union address *address)
{
	int is_transparent = 0;
	socklen_t length = sizeof(is_transparent);

	if (address->any.sa_family == AF_INET) {
		uint32_t ip = ntohl(address->ipv4.sin_addr.s_addr);

		if (!address->ipv4.sin_port || ip == INADDR_ANY || ip >> 24 == IN_LOOPBACKNET)
			return NULL;
		if (getsockopt(fd, SOL_IP, IP_TRANSPARENT, &is_transparent, &length) || !is_transparent)
			return NULL;
		return &address->ipv4.sin_port;
	}
	if (address->any.sa_family == AF_INET6) {
		struct in6_addr *ip = &address->ipv6.sin6_addr;

		if (!address->ipv6.sin6_port || IN6_IS_ADDR_UNSPECIFIED(ip) || IN6_IS_ADDR_LOOPBACK(ip))
			return NULL;
		if (getsockopt(fd, SOL_IPV6, IPV6_TRANSPARENT, &is_transparent, &length) || !is_transparent)
			return NULL;
		return &address->ipv6.sin6_port;
	}
	return NULL;
}

/* Leaves the port to connect(), which may have this one alone. Says whether the kernel can do so. */
static int leave_to_connect(int fd, uint16_t port)
{
	uint32_t range = (uint32_t)port << 16 | port;
	int yes = 1;

	return !setsockopt(fd, SOL_IP, IP_LOCAL_PORT_RANGE, &range, sizeof(range)) &&
	       !setsockopt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof(yes));
}

/* The port that connect() alone was to take, or 0. */
static uint16_t left_port(int fd)
{
	uint32_t range = 0;
	socklen_t length = sizeof(range);

	if (getsockopt(fd, SOL_IP, IP_LOCAL_PORT_RANGE, &range, &length) || range >> 16 != (range & 0xffff))
		return 0;
	return range & 0xffff;
}

/* Reserves the port after all, at the address that the socket has. */
static int reserve(int fd, uint16_t port)
{
	union address address;
	socklen_t length = sizeof(address);

	if (getsockname(fd, &address.any, &length))
		return -1;
	if (address.any.sa_family == AF_INET)
		address.ipv4.sin_port = htons(port);
	else
		address.ipv6.sin6_port = htons(port);
	return syscall(SYS_bind, fd, &address, length);
}

/* Puts off to connect() what bind() could not do. */
static int put_off(int fd, int result)
{
	if (!result || errno != EADDRINUSE || fd >= FILES)
		return result;
	in_use[fd] = 1;
	return 0;
}

static int bind_client(int fd, union address *address, in_port_t *port, socklen_t length)
{
	if (is_chosen_from(ntohs(*port))) {
		if (leave_to_connect(fd, ntohs(*port))) {
			*port = 0;
		} else if (!has_room()) {
			errno = EADDRINUSE;
			return -1;
		}
	}
	return syscall(SYS_bind, fd, address, length);
}

EXPORTED int bind(int fd, const struct sockaddr *given, socklen_t length)
{
	union address address;
	in_port_t *port;

	if (fd >= 0 && fd < FILES)
		in_use[fd] = 0;
	if (!given || length < sizeof(sa_family_t) || length > sizeof(address))
		return syscall(SYS_bind, fd, given, length);
	memset(&address, 0, sizeof(address));
	memcpy(&address, given, length);
	port = client_port(fd, &address);
	if (!port)
		return syscall(SYS_bind, fd, given, length);
	return put_off(fd, bind_client(fd, &address, port, length));
}

/*
 * A client that comes again from the same port may find its last connection in TIME_WAIT. For a port that is bound the
 * kernel lets the new one take its place, for one that connect() takes it does not (tcp_twsk_unique()).
 */
EXPORTED int connect(int fd, const struct sockaddr *peer, socklen_t length)
{
	uint16_t port;
	int result;

	if (fd >= 0 && fd < FILES && peer && peer->sa_family != AF_UNIX && in_use[fd]) {
		in_use[fd] = 0;
		errno = ECONNREFUSED;
		return -1;
	}
	result = syscall(SYS_connect, fd, peer, length);
	if (!result || errno != EADDRNOTAVAIL)
		return result;
	port = left_port(fd);
	if (port && !reserve(fd, port))
		return syscall(SYS_connect, fd, peer, length);
	errno = EADDRNOTAVAIL;
	return -1;
}
