/* fuzz.h: what a fuzz target is: libFuzzer calls it with its inventions, replay.c with files. */
#ifndef HLCHAT_FUZZ_H
#define HLCHAT_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/** Does with the bytes what the program would; aborts when something that must hold does not.
 * Always 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
