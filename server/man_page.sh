#!/bin/sh
# Prints the manual page of zerocpd: what it says of itself.
# Usage: man_page.sh ZEROCPD
set -eu
version=$("$1" --version)
help=$("$1" --help)
cat <<ROFF
.TH ZEROCPD 8 "" "$version" "System Administration"
.SH NAME
zerocpd \- the daemon of zerocp, which owns the shared memory that programs hand to each other
.SH DESCRIPTION
.nf
ROFF
printf '%s\n' "$help" | sed 's/\\/\\e/g; s/-/\\-/g; s/^[.'"'"']/\\\&&/'
cat <<'ROFF'
.fi
.SH FILES
.TP
.I /etc/zerocp/zerocpd.yaml
Configuration of the system's instance, zerocpd.service
.TP
.I /etc/zerocp/NAME.yaml
The same of the instance zerocpd@NAME.service, whose runtime directory is /run/zerocp\-NAME
.SH SEE ALSO
.BR zerocp (1),
.BR systemctl (1)
ROFF
