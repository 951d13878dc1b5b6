/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Reads lines of hexadecimal words, the pieces in which the first bytes of a connection arrive, and prints the parser's
 * verdict after each piece. Compiled with -DKERNEL it asks parser.bpf.o (the third argument) in the kernel.
 * Usage: verdicts VERSIONS MAX-HEADER [OBJECT]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef KERNEL
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#endif

#include "header.h"

struct question {
	struct srcip_limits limits;
	__u32 usable;
};

static const char *REASONS[] = { "", "no_header", "malformed", "version", "too_long", "checksum", "unusable_address" };

#ifdef KERNEL
static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int program, parsers, questions;

static void prepare(const char *path)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_prog_info info = { 0 };
	__u32 size = sizeof(info);

	if (!object || bpf_object__load(object))
		fail("loading the object");
	program = bpf_program__fd(bpf_object__find_program_by_name(object, "parse"));
	parsers = bpf_object__find_map_fd_by_name(object, "parsers");
	questions = bpf_object__find_map_fd_by_name(object, "questions");
	if (bpf_obj_get_info_by_fd(program, &info, &size))
		fail("asking for the program");
	fprintf(stderr, "verified %u instructions\n", info.verified_insns);
}

static int ask(struct srcip_parser *parser, struct question *question)
{
	__u32 zero = 0;
	char packet[64] = { 0 };
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = packet, .data_size_in = sizeof(packet));

	if (bpf_map_update_elem(parsers, &zero, parser, BPF_ANY) ||
	    bpf_map_update_elem(questions, &zero, question, BPF_ANY) || bpf_prog_test_run_opts(program, &run) ||
	    bpf_map_lookup_elem(parsers, &zero, parser) || bpf_map_lookup_elem(questions, &zero, question))
		fail("running the program");
	return run.retval;
}
#else
static void prepare(const char *path)
{
	(void)path;
}

static int ask(struct srcip_parser *parser, struct question *question)
{
	int verdict = srcip_parse(parser, &question->limits);

	if (verdict == SRCIP_ACCEPT)
		question->usable = srcip_usable(&parser->claim);
	return verdict;
}
#endif

static void print(int verdict, const struct srcip_parser *parser, const struct question *question)
{
	const struct srcip_claim *claim = &parser->claim;

	if (verdict == SRCIP_MORE)
		printf("wait");
	else if (verdict != SRCIP_ACCEPT)
		printf("refuse %s", REASONS[parser->reason]);
	else if (!claim->family)
		printf("local %u", claim->length);
	else if (!question->usable)
		printf("refuse %s", REASONS[SRCIP_UNUSABLE_ADDRESS]);
	else {
		printf("proxy ");
		for (int i = 0; i < (claim->family == 4 ? 4 : 16); i++)
			printf("%02x", claim->address[i]);
		printf(" %u %u", claim->port, claim->length);
	}
}

static void add_piece(struct srcip_parser *parser, const char *hex)
{
	unsigned int byte;

	for (; sscanf(hex, "%2x", &byte) == 1 && parser->have < SRCIP_MAX_HEADER; hex += 2)
		parser->bytes[parser->have++] = byte;
}

int main(int count, char **arguments)
{
	static struct srcip_parser parser;
	static struct question question;
	char *line = NULL;
	size_t size = 0;

	if (count < 3)
		return 2;
	question.limits.versions = atoi(arguments[1]);
	question.limits.max_header = atoi(arguments[2]);
	prepare(arguments[3]);
	while (getline(&line, &size, stdin) > 0) {
		parser.have = 0;
		for (char *piece = strtok(line, " \n"), *mark = ""; piece; piece = strtok(NULL, " \n"), mark = ", ") {
			add_piece(&parser, piece);
			printf("%s", mark);
			print(ask(&parser, &question), &parser, &question);
		}
		printf("\n");
	}
	free(line);
	return 0;
}
