/*
 * cmocka.h: cmocka 1 and 2 alike. Include it after the headers of C that cmocka asks for.
 */
#ifndef HLCHAT_CMOCKA_H
#define HLCHAT_CMOCKA_H

#include <cmocka.h>

/* A macro of cmocka's that no test calls; it would take `ops->stop(log)` for itself. */
#undef stop

/* cmocka 2 deprecates the old name; of the new ones, the unsigned one (2.0.2) has casts that
 * -Wconversion refuses. */
#ifdef assert_int_in_range
#undef assert_in_range
#define assert_in_range assert_int_in_range
#endif

#endif
