/*
 * server.h: FastCGI requests on a listening socket, served by threads.
 *
 * A connection carries one request and is closed, even where the peer would keep it: libfcgi gives
 * a thread to each connection, and a kept one would hold it while it is idle.
 *
 * The peer is HAProxy and nobody else: a unix socket is 0660, a TCP port is on a private address
 * (libfcgi also heeds FCGI_WEB_SERVER_ADDRS=ip,ip). A TCP peer that falls silent loses its thread
 * after SERVER_SILENCE_S. A unix peer is dropped after 2 s if it sends nothing at all; libfcgi
 * offers no limit for one that stops inside a record, which takes a stopped process, not a lost
 * network.
 *
 * One server in a process: libfcgi has global state.
 */
#ifndef HLCHAT_API_SERVER_H
#define HLCHAT_API_SERVER_H

struct server;

enum { SERVER_SILENCE_S = 5, SERVER_STOP_S = 10 };

/**
 * Starts `threads` threads (with the caller's signal mask) on `listen_fd`, which stays the
 * caller's and must live until server_stop(). `env_label` is borrowed as long. NULL: a thread or
 * descriptor could not be had; errno says why.
 */
struct server *server_start(int listen_fd, int threads, const char *env_label);

/**
 * Serves what has connected already, then ends the threads and frees `server`. Whoever is not done
 * after SERVER_STOP_S is left behind: returns how many threads; when there are any, the process
 * should exit at once.
 */
int server_stop(struct server *server);

#endif
