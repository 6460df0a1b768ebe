#!/usr/bin/env bash
# make install-test, make boot-test: a clean Debian is booted in systemd-nspawn and docs/INSTALL.md followed in it, line by line, until a
# generation is delivered; boot-test goes on with a hang, a stop under load and replicas (life.sh). Needs root, mmdebstrap, systemd-nspawn.
#
# The machine has no network. Debian's packages lie in its apt cache, pip's in a folder; PostgreSQL, a local KIE and a storage that speaks
# as Supabase's does run in it, from this source. Nothing of it is kept, but for the cache of what was downloaded.
set -euo pipefail
cd "$(dirname "$0")/../.."
what=${1:?install or boot}
suite=bookworm

[ "$(id -u)" = 0 ] || { echo "$what-test: needs root" >&2; exit 1; }
for program in mmdebstrap systemd-nspawn; do
  command -v "$program" >/dev/null || { echo "$what-test: needs $program" >&2; exit 1; }
done

cache=${XDG_CACHE_HOME:-$HOME/.cache}/kie-reconciler-boot
root=$cache/$suite
mkdir -p "$cache"
if [ ! -e "$root.made" ]; then
  rm -rf "$root"
  # shellcheck disable=SC2016 - $1 is mmdebstrap's: the new root
  mmdebstrap --quiet --mode=root --variant=minbase --include=systemd,systemd-sysv,dbus,libpam-systemd,postgresql,ca-certificates,procps \
    --skip=cleanup/apt/lists,cleanup/apt/cache \
    --customize-hook='chroot "$1" apt-get clean' \
    --customize-hook='chroot "$1" apt-get install -qq --no-install-recommends --download-only python3-venv curl' \
    "$suite" "$root"
  touch "$root.made"
fi

run=$(mktemp -d "${TMPDIR:-/tmp}/kie-reconciler-boot.XXXXXX")
[ -n "${KEEP:-}" ] || trap 'rm -rf "$run"' EXIT
mkdir "$run/values" "$run/out"
# What the machine downloads as INSTALL tells it, and what the stand-ins need, both pinned.
offline=(-qq --disable-pip-version-check --require-hashes --only-binary :all: --python-version 3.11 -r requirements/run.txt)
sum=$(sha256sum requirements/run.txt | cut -c1-16)
if [ ! -e "$cache/wheels-$sum/.made" ]; then
  "$PYTHON" -m pip download "${offline[@]}" -d "$cache/wheels-$sum"
  "$PYTHON" -m pip install "${offline[@]}" --no-index --find-links "$cache/wheels-$sum" --target "$cache/wheels-$sum/site"
  touch "$cache/wheels-$sum/.made"
fi
cp dist/kie-reconciler.tar.gz "$run/"
"$PYTHON" tests/boot/follow.py docs/INSTALL.md >"$run/follow.sh"
cp tests/boot/*.sh "$run/"
# Also what runs without root in the machine reads it.
chmod 755 "$run" "$run/out" "$run/values"
units=$root/etc/systemd/system
cat >"$units/boot-test.service" <<END
[Unit]
After=postgresql.service
[Service]
Type=oneshot
Environment=HOME=/root
WorkingDirectory=/root
ExecStart=/bin/bash /world/machine.sh $what
StandardOutput=append:/world/out/transcript
StandardError=append:/world/out/transcript
ExecStopPost=/bin/systemctl --no-block poweroff
END
mkdir -p "$units/multi-user.target.wants"
ln -sf ../boot-test.service "$units/multi-user.target.wants/boot-test.service"

began=$(date +%s)
# An overlay in memory: what the machine writes ends with it.
timeout ${BOOT_SECONDS:-540} systemd-nspawn --quiet --register=no --keep-unit --private-network --console=pipe --volatile=overlay --machine="boot-test-$$" \
  --bind="$run:/world" --bind-ro="$cache/wheels-$sum:/world-wheels" --bind-ro="$PWD:/world-source" \
  --directory="$root" --boot </dev/null >"$run/out/console" 2>&1 || true
cat "$run/out/transcript" 2>/dev/null || cat "$run/out/console"
code=$(cat "$run/out/code" 2>/dev/null || echo 1)
echo
[ "$code" = 0 ] && echo "$what-test: passed in $(($(date +%s) - began)) s, boot and power-off included" || echo "$what-test: FAILED"
exit "$code"
