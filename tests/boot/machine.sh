#!/usr/bin/env bash
# Runs in the machine, as root: follows INSTALL, proves the delivery, and for boot-test goes on with life.sh. What it prints is the transcript.
set -euo pipefail
what=$1
began=$(date +%s)
trap 'code=$?; [ "$code" = 0 ] || { echo; systemctl --no-pager status kie-reconciler; journalctl --no-pager -n 40 -u kie-reconciler; }; echo "$code" >/world/out/code' EXIT

sql() { cd /; su postgres -c "psql -AtXqc \"$1\""; }
# The stored bytes must be those of the source; the bookkeeping alone proves nothing.
proven() {
  local stored source
  while IFS='|' read -r stored source; do
    cmp <(curl -fsS "$stored") <(curl -fsS "$source")
  done < <(sql "SELECT asset_url, result_urls->>0 FROM public.generations WHERE status = 'success'")
}
export -f sql proven

systemctl is-active --quiet postgresql@15-main
cp /world/kie-reconciler.tar.gz /root/
bash /world/follow.sh
proven
[ "$(sql "SELECT count(*) FROM public.generations WHERE status = 'success' AND asset_url LIKE 'http://127.0.0.1:8789/%'")" = 1 ]
printf '\nINSTALL.md was followed and ended in a delivered generation, byte for byte, %s s after the boot.\n' $(($(date +%s) - began))
if [ "$what" = boot ]; then bash /world/life.sh; fi
