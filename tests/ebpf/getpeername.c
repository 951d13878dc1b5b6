/* Sends each connection the addresses that accept() and getpeername() return for it. Usage: getpeername 4|6 PORT */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void print(int connection, const struct sockaddr_storage *address)
{
	const struct sockaddr_in6 *six = (const void *)address;
	const struct sockaddr_in *four = (const void *)address;
	int is_six = address->ss_family == AF_INET6;
	char text[INET6_ADDRSTRLEN];

	inet_ntop(address->ss_family, is_six ? (const void *)&six->sin6_addr : (const void *)&four->sin_addr, text,
		  sizeof(text));
	dprintf(connection, "%s %d ", text, ntohs(is_six ? six->sin6_port : four->sin_port));
}

int main(int count, char **words)
{
	int is_six = words[1][0] == '6', one = 1, listener = socket(is_six ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
	struct sockaddr_storage any = { .ss_family = is_six ? AF_INET6 : AF_INET }, peer;

	((struct sockaddr_in *)&any)->sin_port = htons(atoi(words[2])); /* in the same place for both */
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (count != 3 || bind(listener, (void *)&any, sizeof(any)) || listen(listener, 16))
		return 1;
	puts("listening");
	fflush(stdout);
	for (;;) {
		socklen_t length = sizeof(peer);
		int connection = accept(listener, (void *)&peer, &length);

		print(connection, &peer);
		length = sizeof(peer);
		getpeername(connection, (void *)&peer, &length);
		print(connection, &peer);
		close(connection);
	}
}
