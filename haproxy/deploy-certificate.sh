#!/usr/bin/env bash
# Takes a renewed certificate into use, as the deploy hook of an ACME client: the running HAProxy
# has it at once, by its admin socket and without a reload, so no connection ends; and the file that
# HAProxy reads at its start is replaced.
#
#   deploy-certificate.sh [CHAIN KEY | -]   both PEM; -: on standard input, one after the other;
#                                           when not given, certbot's $RENEWED_LINEAGE
#
# From the environment, with the values that HAProxy has:
#
#   TLS_CERT   the file; or the folder, where the file is named after certbot's lineage
#   RUN_DIR    where admin.sock is; /run/haproxy when not set
#
# Exit 0: HAProxy has it. Exit 1: it has not, and one line says why and what is stored. What is
# stored is complete at any time; a new file is for its owner alone, one that was there keeps its
# owner, group and mode, and where it is a link, what it leads to is replaced. Needs openssl and
# socat.
set -euo pipefail

fail() {
    echo "deploy-certificate: $*" >&2
    exit 1
}

# ---- what, and where to --------------------------------------------------------------------------

usage="usage: deploy-certificate.sh CHAIN KEY"
umask 077
given='' new=''
trap 'rm -f "$given" "$new"' EXIT
case $# in
0)
    [[ -n ${RENEWED_LINEAGE-} ]] || fail "$usage"
    chain=$RENEWED_LINEAGE/fullchain.pem key=$RENEWED_LINEAGE/privkey.pem
    ;;
1)
    [[ $1 = - ]] || fail "$usage"
    given=$(mktemp)
    cat >"$given"
    chain=$given key=$given
    ;;
2) chain=$1 key=$2 ;;
*) fail "$usage" ;;
esac
file=${TLS_CERT-} socket=${RUN_DIR:-/run/haproxy}/admin.sock
# HAProxy knows the certificate by this name; some characters mean something on its socket.
[[ $file =~ ^/[^[:space:]\;\\]+$ ]] ||
    fail "TLS_CERT is '$file', but must be an absolute path without blanks"
if [[ -d $file ]]; then
    [[ -n ${RENEWED_LINEAGE-} ]] || fail "$file is a folder: TLS_CERT must name the file in it"
    file=${file%/}/${RENEWED_LINEAGE##*/}.pem
fi
for program in openssl socat; do
    command -v "$program" >/dev/null || fail "$program is not installed"
done

# ---- is it good? ---------------------------------------------------------------------------------

for source in "$chain" "$key"; do
    [[ -r $source ]] || fail "cannot read $source; nothing is changed"
done
of_chain=$(openssl x509 -in "$chain" -noout -pubkey 2>/dev/null) ||
    fail "$chain holds no certificate; nothing is changed"
of_key=$(openssl pkey -in "$key" -passin pass: -pubout 2>/dev/null) ||
    fail "$key holds no private key, or needs a password; nothing is changed"
[[ $of_chain = "$of_key" ]] || fail "$key is not the key of $chain; nothing is changed"
openssl x509 -in "$chain" -noout -checkend 0 >/dev/null ||
    fail "$chain has expired; nothing is changed"

# ---- the file, beside the old one ----------------------------------------------------------------

# HAProxy knows it as $file.
stored=$(readlink -f "$file") || fail "cannot write to ${file%/*}"
# In a folder HAProxy passes over what begins with a dot.
new=$(mktemp "${stored%/*}/.${stored##*/}.XXXXXX") || fail "cannot write to ${stored%/*}"
sources=("$chain")
[[ $key = "$chain" ]] || sources+=("$key")
# Only the blocks: an empty line would end the text on the socket.
sed -n '/^-----BEGIN/,/^-----END/s/\r*$//p' "${sources[@]}" >"$new"
if [[ -e $stored ]]; then
    chown --reference="$stored" "$new"
    chmod --reference="$stored" "$new"
fi
sync "$new"

# ---- HAProxy first, then the file ----------------------------------------------------------------

ask() { # command: HAProxy's answer. Not an argument of socat, which all could see.
    socat -t 30 - "UNIX-CONNECT:$socket" 2>/dev/null <<<"$1"
}

store() {
    mv -f "$new" "$stored"
    sync "${stored%/*}"
}

if ! known=$(ask "show ssl cert"); then
    store
    fail "$file is stored, but no HAProxy answers on $socket: it is taken at the next start"
elif ! grep -qxF "$file" <<<"$known"; then
    store
    fail "$file is stored, but the HAProxy that runs does not have it: set its TLS_CERT"
fi
answer=$(ask "set ssl cert $file <<"$'\n'"$(<"$new")"$'\n') || true
if [[ $answer = *Transaction* ]]; then
    answer=$(ask "commit ssl cert $file") || true
fi
if [[ $answer != *Success!* ]]; then
    ask "abort ssl cert $file" >/dev/null || true
    # HAProxy 2.6 only hangs up on what is longer than its buffer.
    fail "HAProxy refuses $chain; nothing is changed. It says: ${answer:-nothing (over 16 KB?)}"
fi
store
echo "deploy-certificate: $file is in use: $(openssl x509 -in "$file" -noout -enddate)"
