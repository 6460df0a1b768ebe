#!/bin/sh
# The commands, with the settings and credentials of the daemon that systemd runs; for root. docs/INSTALL.md puts it into /usr/local/sbin.
RECONCILER_ENV_FILE=/etc/kie-reconciler/settings
CREDENTIALS_DIRECTORY=/etc/kie-reconciler/credentials
export RECONCILER_ENV_FILE CREDENTIALS_DIRECTORY
cd / && exec /opt/kie-reconciler/bin/kie-reconciler "$@"
