// For pm2: `RECONCILER_ENV_FILE=/srv/shop/.env.local pm2 start ecosystem.config.cjs`. docs/INSTALL.md says the rest.
module.exports = {
  apps: [
    {
      name: "kie-reconciler",
      script: process.env.KIE_RECONCILER || "/opt/kie-reconciler/bin/kie-reconciler",
      args: "run",
      interpreter: "none",
      // Replicas divide the rows themselves; each needs a port, so each is an app of its own.
      exec_mode: "fork",
      instances: 1,
      // Milliseconds after SIGINT until SIGKILL: longer than RECONCILER_DRAIN_SECONDS (25).
      kill_timeout: 40000,
      exp_backoff_restart_delay: 200,
      max_memory_restart: "1G",
      merge_logs: true,
      env: {
        // The application's settings, parsed by the daemon; a variable that is set already goes before the file.
        RECONCILER_ENV_FILE: process.env.RECONCILER_ENV_FILE || ".env.local",
        PYTHONFAULTHANDLER: "1",
      },
    },
  ],
};
