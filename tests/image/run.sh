#!/usr/bin/env bash
# make image-test: lints the Dockerfile, builds the image, and lives with it (check_image.py). Needs root, buildah, podman and runc.
#
# The base is a stand-in made of Debian's packages (mmdebstrap), where python is where python's own image has it: it is not that image, and
# trusts whom this machine trusts. IMAGE_BASE=python:3.11-slim-bookworm builds on the real one where it can be pulled.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ "$(id -u)" = 0 ] || { echo "image-test: needs root" >&2; exit 1; }
for program in buildah podman runc mmdebstrap "$HADOLINT"; do
  command -v "$program" >/dev/null || { echo "image-test: needs $program" >&2; exit 1; }
done

"$HADOLINT" Dockerfile

store=${IMAGE_STORE:-${XDG_CACHE_HOME:-$HOME/.cache}/kie-reconciler-image}
mkdir -p "$store"
kept=(--root "$store/images" --runroot "$store/run" --storage-driver overlay)
image=localhost/kie-reconciler:test
base=${IMAGE_BASE:-localhost/python-stand-in:bookworm}
pull=--pull
if [ -z "${IMAGE_BASE:-}" ]; then
  pull=--pull-never
  if ! podman "${kept[@]}" image exists "$base"; then
    trusted=/etc/ssl/certs/ca-certificates.crt
    # shellcheck disable=SC2016 - $1 is mmdebstrap's: the new root
    mmdebstrap --mode=root --variant=minbase --include=ca-certificates,python3,python3-venv \
      --customize-hook='ln -s /usr/bin/python3 "$1/usr/local/bin/python"' \
      --customize-hook="copy-in $trusted /etc/ssl/certs" \
      --quiet bookworm "$store/base.tar"
    podman "${kept[@]}" import --quiet -c 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' -c "ENV PIP_CERT=$trusted" "$store/base.tar" "$base"
    rm "$store/base.tar"
  fi
fi

# chroot: no namespaces are needed for it; docker: the other format knows no HEALTHCHECK.
buildah "${kept[@]}" bud --quiet --layers --isolation chroot --network host "$pull" --format docker \
  --build-arg BASE="$base" --build-arg REVISION="$(git -c safe.directory="$PWD" rev-parse HEAD)" -t "$image" . >/dev/null
podman "${kept[@]}" image prune --force >/dev/null
podman "${kept[@]}" image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}'

IMAGE=$image PODMAN="podman ${kept[*]} --runtime runc --cgroup-manager cgroupfs --events-backend file" \
  "$PYTHON" -m pytest -n0 tests/image/check_image.py "$@"
