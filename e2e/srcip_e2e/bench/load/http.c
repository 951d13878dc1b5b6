/* HTTP/1.1 as far as both ends need it: a GET without a body, and an answer of HTTP_BODY bytes. */
#include "load.h"

char http_response[HTTP_LONGEST];
size_t http_response_size;

void http_prepare(void)
{
	int head = snprintf(http_response, HTTP_LONGEST,
	                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", HTTP_BODY);
	memset(http_response + head, 'x', HTTP_BODY);
	http_response_size = (size_t)head + HTTP_BODY;
}

/* What a browser sends. `forged` adds what a client may send who wants to be taken for another one. */
size_t http_request(char *out, const char *host, int forged)
{
	return (size_t)snprintf(out, HTTP_LONGEST,
	                        "GET /shop/cart?item=4711 HTTP/1.1\r\nHost: %s\r\n"
	                        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
	                        "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
	                        "Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\n"
	                        "Connection: keep-alive\r\n%s\r\n",
	                        host, forged ? "X-Forwarded-For: 203.0.113.9\r\nX-Real-IP: 203.0.113.9\r\n" : "");
}

/* How many of these bytes belong to the head, its empty line included, or -1 when it does not end in them.
 * `matched` bytes of its end were seen before; 4 when it has ended. */
ssize_t http_end(uint8_t *matched, const char *data, ssize_t n)
{
	for (ssize_t i = 0; i < n; i++) {
		*matched = data[i] == "\r\n\r\n"[*matched] ? *matched + 1 : data[i] == '\r';
		if (*matched == 4)
			return i + 1;
	}
	return -1;
}

/* How many bytes of an answer's body are to come after these; less than 0 when this is not the answer. */
int64_t http_wanted(struct head *h, int64_t wanted, const char *data, ssize_t n)
{
	ssize_t head = 0;
	if (!h->begun && (n < 12 || memcmp(data, "HTTP/1.1 200", 12)))
		return -1;
	h->begun = 1;
	if (h->matched < 4 && (head = http_end(&h->matched, data, n)) < 0)
		return wanted;
	return wanted - (n - head);
}

/* Whether this text is a whole answer; its body then. */
int http_answer(const char *text, char **body)
{
	const char *end = strstr(text, "\r\n\r\n"), *length = strcasestr(text, "\r\ncontent-length:");
	if (!end || !length || length > end)
		return 0;
	*body = (char *)end + 4;
	return strlen(*body) >= strtoul(length + 17, NULL, 10);
}
