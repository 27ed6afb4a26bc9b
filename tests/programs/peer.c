/*
 * One connection, in each form a socket can take, by plain system calls.
 *
 *   peer connect FORM ADDRESS PORT [OWN-ADDRESS | DEVICE] [OWN-PORT]
 *       connects, reads one line (of JSON) from the server, and prints what it saw as one line of JSON.
 *       FORM: blocking, nonblocking, bound, device, fastopen, fastopen-connect, mapped, mptcp, reused
 *   peer serve PORT NAME
 *       accepts for ever with accept4(); tells each client, and standard output, whom it saw.
 *
 * Linked statically against musl it shows that nothing rests on intercepting library calls; accept4(),
 * getpeername() and getsockname() are made directly, as Go programs do.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef TCP_FASTOPEN_CONNECT
#define TCP_FASTOPEN_CONNECT 30
#endif
#ifndef MSG_FASTOPEN
#define MSG_FASTOPEN 0x20000000
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

enum { PATIENCE_MS = 10000, SHOWN = 80, LINE = 1024 };

static const char *form = "serve";

/* Prints the failed call and its errno as the report; the run itself is a success. */
static void failed(const char *call)
{
	printf("{\"form\":\"%s\",\"connected\":false,\"call\":\"%s\",\"errno\":%d,\"error\":\"%s\"}\n", form, call,
	       errno, strerror(errno));
	exit(0);
}

static void usage(void)
{
	fprintf(stderr, "usage: peer connect FORM ADDRESS PORT [OWN-ADDRESS|DEVICE] [OWN-PORT] | peer serve PORT NAME\n");
	exit(2);
}

/* Fills in an address; IPv4 is mapped into IPv6 when that is asked for. */
static socklen_t parse(struct sockaddr_storage *to, const char *address, int port, int mapped)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)to;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)to;
	char text[SHOWN];

	memset(to, 0, sizeof(*to));
	if (!mapped && inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		return sizeof(*v4);
	}
	snprintf(text, sizeof(text), "%s%s", mapped ? "::ffff:" : "", address);
	if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
		usage();
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(port);
	return sizeof(*v6);
}

/* ADDRESS:PORT, with IPv4-mapped addresses as IPv4. */
static const char *show(const struct sockaddr_storage *from, char *text)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)from;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)from;
	char ip[INET6_ADDRSTRLEN];

	if (from->ss_family == AF_INET) {
		inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof(ip));
		snprintf(text, SHOWN, "%s:%d", ip, ntohs(v4->sin_port));
	} else if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
		inet_ntop(AF_INET, v6->sin6_addr.s6_addr + 12, ip, sizeof(ip));
		snprintf(text, SHOWN, "%s:%d", ip, ntohs(v6->sin6_port));
	} else {
		inet_ntop(AF_INET6, &v6->sin6_addr, ip, sizeof(ip));
		snprintf(text, SHOWN, "[%s]:%d", ip, ntohs(v6->sin6_port));
	}
	return text;
}

static const char *name_of(long call, int fd, char *text, int *family)
{
	struct sockaddr_storage name = {0};
	socklen_t length = sizeof(name);

	if (syscall(call, fd, &name, &length) != 0)
		failed(call == SYS_getpeername ? "getpeername" : "getsockname");
	if (family)
		*family = name.ss_family == AF_INET ? 4 : 6;
	return show(&name, text);
}

static int open_socket(int family, int protocol)
{
	struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, protocol);

	if (fd < 0)
		failed("socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

static void connect_nonblocking(int fd, const struct sockaddr_storage *to, socklen_t length)
{
	struct pollfd waiting = {.fd = fd, .events = POLLOUT};
	int error = 0;
	socklen_t size = sizeof(error);

	if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0)
		failed("fcntl");
	if (connect(fd, (const struct sockaddr *)to, length) == 0)
		return;
	if (errno != EINPROGRESS)
		failed("connect");
	errno = ETIMEDOUT;
	if (poll(&waiting, 1, PATIENCE_MS) != 1)
		failed("poll");
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
	errno = error;
	if (error != 0)
		failed("SO_ERROR");
	fcntl(fd, F_SETFL, 0);
}

/* Dissolves one connection with AF_UNSPEC and lets the same socket connect again. */
static void connect_twice(int fd, const struct sockaddr_storage *to, socklen_t length)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};

	if (connect(fd, (const struct sockaddr *)to, length) != 0)
		failed("connect");
	if (connect(fd, &none, sizeof(none)) != 0)
		failed("dissolve");
	if (connect(fd, (const struct sockaddr *)to, length) != 0)
		failed("connect again");
}

static int client(int argc, char **argv)
{
	const char *extra = argc > 3 ? argv[3] : NULL;
	struct sockaddr_storage to, own;
	char peer[SHOWN], self[SHOWN], line[LINE];
	int fd, family, one = 1, sent = 0;
	ssize_t length;
	socklen_t size;

	if (argc < 3)
		usage();
	form = argv[0];
	size = parse(&to, argv[1], atoi(argv[2]), strcmp(form, "mapped") == 0);
	fd = open_socket(to.ss_family, strcmp(form, "mptcp") == 0 ? IPPROTO_MPTCP : 0);

	if (strcmp(form, "bound") == 0 && extra) {
		socklen_t own_size = parse(&own, extra, argc > 4 ? atoi(argv[4]) : 0, 0);

		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(fd, (struct sockaddr *)&own, own_size) != 0)
			failed("bind");
	} else if (strcmp(form, "device") == 0 && extra) {
		if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, extra, strlen(extra)) != 0)
			failed("SO_BINDTODEVICE");
	} else if (strcmp(form, "fastopen-connect") == 0) {
		if (setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof(one)) != 0)
			failed("TCP_FASTOPEN_CONNECT");
	} else if (strcmp(form, "bound") == 0 || strcmp(form, "device") == 0) {
		usage();
	}

	if (strcmp(form, "nonblocking") == 0) {
		connect_nonblocking(fd, &to, size);
	} else if (strcmp(form, "reused") == 0) {
		connect_twice(fd, &to, size);
	} else if (strcmp(form, "fastopen") == 0) {
		if (sendto(fd, "hello\n", 6, MSG_FASTOPEN, (struct sockaddr *)&to, size) != 6)
			failed("sendto");
		sent = 1;
	} else if (connect(fd, (struct sockaddr *)&to, size) != 0) {
		failed("connect");
	}
	/* With TCP_FASTOPEN_CONNECT the first write may be what connects. */
	if (!sent && send(fd, "hello\n", 6, MSG_NOSIGNAL) != 6)
		failed("send");

	for (length = 0; length < LINE - 1; length++) {
		ssize_t got = read(fd, line + length, 1);

		if (got < 0)
			failed("read");
		if (got == 0 || line[length] == '\n')
			break;
	}
	line[length] = 0;
	name_of(SYS_getpeername, fd, peer, &family);
	name_of(SYS_getsockname, fd, self, NULL);
	printf("{\"form\":\"%s\",\"connected\":true,\"getpeername\":\"%s\",\"family\":%d,\"getsockname\":\"%s\",\"answer\":%s}\n",
	       form, peer, family, self, length > 0 ? line : "null");
	return 0;
}

static int server(int port, const char *name)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	int one = 1, fd = open_socket(AF_INET6, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){0}, sizeof(struct timeval));
	if (bind(fd, (struct sockaddr *)&any, sizeof(any)) != 0 || listen(fd, 128) != 0) {
		perror("listen");
		return 1;
	}
	printf("{\"listening\":%d}\n", port);
	fflush(stdout);
	for (;;) {
		struct sockaddr_storage from = {0};
		socklen_t size = sizeof(from);
		char accepted[SHOWN], peer[SHOWN], self[SHOWN], line[LINE];
		int length, connection = syscall(SYS_accept4, fd, &from, &size, SOCK_CLOEXEC);

		if (connection < 0)
			continue;
		length = snprintf(line, sizeof(line),
				  "{\"server\":\"%s\",\"accept\":\"%s\",\"getpeername\":\"%s\",\"getsockname\":\"%s\"}\n", name,
				  show(&from, accepted), name_of(SYS_getpeername, connection, peer, NULL),
				  name_of(SYS_getsockname, connection, self, NULL));
		fputs(line, stdout);
		fflush(stdout);
		if (send(connection, line, length, MSG_NOSIGNAL) == length) {
			/* The client closes first. */
			struct pollfd waiting = {.fd = connection, .events = POLLIN};
			char rest[64];

			while (poll(&waiting, 1, PATIENCE_MS) == 1 && read(connection, rest, sizeof(rest)) > 0)
				;
		}
		close(connection);
	}
}

int main(int argc, char **argv)
{
	if (argc >= 5 && strcmp(argv[1], "connect") == 0)
		return client(argc - 2, argv + 2);
	if (argc == 4 && strcmp(argv[1], "serve") == 0)
		return server(atoi(argv[2]), argv[3]);
	usage();
}
