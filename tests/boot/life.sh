#!/usr/bin/env bash
# A daemon's life under systemd, after INSTALL was followed: its sandbox, a hang, a stop under load, replicas. Called by machine.sh.
set -euo pipefail
unit=kie-reconciler
python() { PYTHONPATH=/world-source:/world-wheels/site PYTHONDONTWRITEBYTECODE=1 python3 "$@"; }
of() { systemctl show -P "$1" "${2:-$unit}"; }
told() { printf '%-46s %s\n' "$1" "$2"; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f s", b - a }'; }
# until WORDS... : the command holds within 60 s
until_true() { for _ in $(seq 300); do if "$@"; then return; fi; sleep 0.2; done; echo "never: $*"; return 1; }
delivered() { [ "$(sql "SELECT count(*) FROM public.generations WHERE status = 'success'")" -ge "$1" ]; }
in_flight() { sql "SELECT count(*) FROM public.generations WHERE status IN ('queued', 'generating')"; }

printf '\n## The sandbox\n'
pid=$(of MainPID)
told 'ready, and what it says' "$(of ActiveState): $(of StatusText)"
told 'uid, capabilities, seccomp, no new privileges' "$(awk '/^(Uid|CapBnd|Seccomp|NoNewPrivs):/ { printf "%s ", $2 }' "/proc/$pid/status")"
[ "$(awk '/^Uid:/ { print $2 }' "/proc/$pid/status")" -gt 0 ]
[ "$(awk '/^CapBnd:/ { print $2 }' "/proc/$pid/status")" = 0000000000000000 ]
[ "$(awk '/^Seccomp:/ { print $2 }' "/proc/$pid/status")" = 2 ]
told 'credentials that it has' "$(find "/run/credentials/$unit.service" -type f -size +1c -printf '%f %m; ')"
told 'secrets in its environment' "$(tr '\0' '\n' <"/proc/$pid/environ" | grep -c -e a-password -e key-of-the-shop || true)"
[ -z "$(tr '\0' '\n' <"/proc/$pid/environ" | grep -e a-password -e key-of-the-shop)" ]
told 'exposure' "$(systemd-analyze security --no-pager $unit.service | tail -1)"
told 'mode of the folder with the spool' "$(stat -L -c %a /var/lib/$unit)"

printf '\n## A hang\n'
# A signal that blocks the loop, and times that need no patience.
mkdir -p /run/systemd/system/$unit.service.d /world/hook
printf 'import signal\n\n\ndef block(*_):\n    while True:\n        pass\n\n\nsignal.signal(signal.SIGUSR1, block)\n' >/world/hook/sitecustomize.py
chmod -R a+rX /world/hook
printf '[Service]\nWatchdogSec=3\nRestartSec=1\nEnvironment=PYTHONPATH=/world/hook\n' >/run/systemd/system/$unit.service.d/hang.conf
systemctl daemon-reload
began=$(now); systemctl restart $unit
told 'stop, start and ready' "$(since "$began")"
pid=$(of MainPID)
python /world-source/tests/boot/orders.py 20 >/dev/null
began=$(now); kill -USR1 "$pid"
another() { [ "$(of NRestarts)" = 1 ] && [ "$(of ActiveState)" = active ] && [ "$(of MainPID)" != "$pid" ]; }
until_true another
told 'hung, aborted by the watchdog, ready again' "$(since "$began") (WatchdogSec=3, RestartSec=1)"
journalctl --no-pager -o cat -u $unit | grep -e 'Watchdog timeout'
journalctl --no-pager -o cat -u $unit | grep -A3 'Fatal Python error: Aborted' | grep -q 'in block'
told 'the journal names where it hung' yes
until_true delivered 21
proven
told 'twenty orders from before the hang' "delivered $(since "$began") after it"
rm /run/systemd/system/$unit.service.d/hang.conf; systemctl daemon-reload; systemctl restart $unit

printf '\n## A stop under load\n'
python /world-source/tests/boot/orders.py 200 >/dev/null
until_true delivered 41
began=$(now); systemctl stop $unit
told 'stopped, drained' "$(since "$began"), $(of Result), exit code $(of ExecMainStatus)"
[ "$(of Result)" = success ] && [ "$(of ExecMainStatus)" = 0 ]
journalctl --no-pager -o cat -u $unit | grep -e work.drained | tail -1 | cut -c1-160
held=$(sql 'SELECT count(*) FROM reconciler.work WHERE lease_until > now()')
told 'rows still held' "$held"
[ "$held" = 0 ]
told 'rows in flight' "$(in_flight)"
[ "$(in_flight)" -gt 0 ]
began=$(now); systemctl start $unit
until_true delivered 221
proven
told 'started again, all 200 delivered and compared' "$(since "$began")"
told 'stored assets, of 221' "$(sql 'SELECT count(*) FROM reconciler.assets WHERE verified_by IS NOT NULL')"

printf '\n## A database that is away\n'
systemctl stop $unit postgresql
systemctl start --no-block $unit
waits() { case "$(of StatusText)" in 'waiting: the database'*) [ "$(of ActiveState)" = activating ] ;; *) false ;; esac; }
until_true waits
told 'it says' "$(of ActiveState): $(of StatusText)"
systemctl start postgresql
ready() { [ "$(of ActiveState)" = active ]; }
until_true ready
told 'and then' "$(of ActiveState), restarts: $(of NRestarts)"

printf '\n## Replicas\n'
systemctl stop $unit
systemctl start kie-reconciler@9471 kie-reconciler@9472
for port in 9471 9472; do curl -fsS "http://127.0.0.1:$port/readyz"; echo " $port"; done
python /world-source/tests/boot/orders.py 20 >/dev/null
until_true delivered 241
systemctl stop 'kie-reconciler@*'
told 'twenty orders, two replicas' "delivered; $(of Result kie-reconciler@9471), $(of Result kie-reconciler@9472)"
[ -z "$(systemctl --failed --no-legend)" ]
told 'failed units' none
