#include "ws-broker/json.h"

#include <ctype.h>
#include <string.h>

struct reader {
    const char *at, *end;
};

/* '\0' at the end, which is good nowhere. */
static char peek(const struct reader *reader) {
    return reader->at < reader->end ? *reader->at : '\0';
}

static bool take(struct reader *reader, char c) {
    bool is_there = peek(reader) == c;
    reader->at += is_there;
    return is_there;
}

static void skip_blanks(struct reader *reader) {
    while (take(reader, ' ') || take(reader, '\t') || take(reader, '\r') || take(reader, '\n'))
        continue;
}

static bool take_word(struct reader *reader, const char *word) {
    while (*word && take(reader, *word))
        word++;
    return !*word;
}

static bool take_digits(struct reader *reader) {
    const char *first = reader->at;
    while (isdigit((unsigned char)peek(reader)))
        reader->at++;
    return reader->at > first;
}

static bool take_number(struct reader *reader) {
    take(reader, '-');
    if (!take(reader, '0') && !take_digits(reader))
        return false;
    if (take(reader, '.') && !take_digits(reader))
        return false;
    if (!take(reader, 'e') && !take(reader, 'E'))
        return true;
    if (!take(reader, '+'))
        take(reader, '-');
    return take_digits(reader);
}

/* What stands behind a backslash. */
static bool take_escape(struct reader *reader) {
    char c = peek(reader);
    if (!c || !strchr("\"\\/bfnrtu", c))
        return false;
    reader->at++;
    for (int i = 0; c == 'u' && i < 4; i++, reader->at++)
        if (!isxdigit((unsigned char)peek(reader)))
            return false;
    return true;
}

static bool take_string(struct reader *reader) {
    if (!take(reader, '"'))
        return false;
    while (reader->at < reader->end) {
        unsigned char c = (unsigned char)*reader->at++;
        if (c == '"')
            return true;
        if (c < ' ' || (c == '\\' && !take_escape(reader)))
            return false;
    }
    return false;
}

static bool take_value(struct reader *reader, int depth);

static bool take_key(struct reader *reader) {
    skip_blanks(reader);
    if (!take_string(reader))
        return false;
    skip_blanks(reader);
    return take(reader, ':');
}

/* An object, or a list, which has no keys. */
static bool take_members(struct reader *reader, char open, char close, int depth) {
    if (depth == 0 || !take(reader, open))
        return false;
    skip_blanks(reader);
    if (take(reader, close))
        return true;
    do
        if ((open == '{' && !take_key(reader)) || !take_value(reader, depth - 1))
            return false;
    while (take(reader, ','));
    return take(reader, close);
}

/* With the blanks around it. */
static bool take_value(struct reader *reader, int depth) {
    bool is_good;
    skip_blanks(reader);
    switch (peek(reader)) {
    case '{':
        is_good = take_members(reader, '{', '}', depth);
        break;
    case '[':
        is_good = take_members(reader, '[', ']', depth);
        break;
    case '"':
        is_good = take_string(reader);
        break;
    case 't':
        is_good = take_word(reader, "true");
        break;
    case 'f':
        is_good = take_word(reader, "false");
        break;
    case 'n':
        is_good = take_word(reader, "null");
        break;
    default:
        is_good = take_number(reader);
    }
    skip_blanks(reader);
    return is_good;
}

bool json_is_object(const char *text, size_t len) {
    struct reader reader = {text, text + len};
    skip_blanks(&reader);
    return peek(&reader) == '{' && take_value(&reader, JSON_DEPTH_MAX) && reader.at == reader.end;
}
