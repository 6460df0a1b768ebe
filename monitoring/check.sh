#!/bin/sh
# Prometheus's and Alertmanager's own word on what lies here; `make check` runs it. Where a tool is absent it says so.
set -eu
cd "$(dirname "$0")"

if command -v promtool >/dev/null; then
  promtool check config --lint-fatal prometheus.yml >/dev/null
  said=$(promtool test rules tests/*.yml 2>&1) || { echo "$said" >&2; exit 1; }
  echo "monitoring/: the rules hold"
else
  echo "monitoring/: rules not checked, there is no promtool (Debian: prometheus)"
fi

if ! command -v amtool >/dev/null; then
  echo "monitoring/: Alertmanager's example not checked, there is no amtool (Debian: prometheus-alertmanager)"
  exit 0
fi
config=alertmanager/alertmanager.yml
amtool check-config "$config" >/dev/null
# The Telegram receiver is shown as a comment: without it the rest must hold, and with it the whole.
whole=$(mktemp)
trap 'rm -f "$whole"' EXIT
sed 's/^    # \(telegram_configs:\|  \)/    \1/' "$config" >"$whole"
# Alertmanager before 0.26 knows the token only in the open.
amtool check-config "$whole" >/dev/null 2>&1 || sed -i 's/bot_token_file:/bot_token:/' "$whole"
amtool check-config "$whole" >/dev/null

goes() {
  receiver=$1
  shift
  amtool config routes test --config.file="$config" --verify.receivers="$receiver" "$@" >/dev/null 2>&1 ||
    { echo "an alert with $* does not go to $receiver" >&2; exit 1; }
}
goes page severity=page cluster=production alertname=GenerationsStuck
goes page severity=page
goes ticket severity=ticket cluster=production alertname=LeasesLost
goes page alertname=SomebodyElses
echo "monitoring/: Alertmanager's example and its routes hold"
