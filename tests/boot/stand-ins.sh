# Begins what stands behind the wire, as soon as there is a Python to run it. Sourced by the script that follow.py makes.
printf '[global]\nno-index = true\nfind-links = /world-wheels\n' >/etc/pip.conf
systemd-run --quiet --unit=world --setenv=PYTHONPATH=/world-source:/world-wheels/site --setenv=PYTHONDONTWRITEBYTECODE=1 \
  python3 /world-source/tests/boot/world.py /world/values
(cd / && su postgres -c "psql -qc \"ALTER ROLE postgres PASSWORD 'a-password'\"")
for _ in $(seq 100); do [ -e /world/values/ready ] && break; sleep 0.2; done
[ -e /world/values/ready ] || { journalctl -u world --no-pager; exit 1; }
