"""The seventeen incidents: what happened, how it is staged, and what to do about it."""

from __future__ import annotations

from benchmarks.incidents import inside, outside
from benchmarks.incidents.scene import Incident

INCIDENTS = (
    Incident(
        "KIE down",
        "Nothing answers at KIE's address; four generations wait.",
        "Wait: nothing fails for it, everything is asked again. If KIE answers from elsewhere, look at the way out of"
        " this host, DNS and the firewall. When it is back, `kie-reconciler retry ID` spares the wait for the next "
        "look.",
        outside.kie_down,
    ),
    Incident(
        "Wrong key",
        "The key was revoked at KIE and is still the one that the daemon has; two generations wait.",
        "Put the new key into `KIE_API_KEY` and restart. It has to belong to the account that made the tasks: nobody "
        "else is told about them.",
        outside.wrong_key,
    ),
    Incident(
        "No credits",
        "The account is empty: an order of the shop was refused. What KIE has made before is delivered as ever.",
        "Top up at kie.ai. Refused orders are failed at once, with the refund where `reconciler.on_failed` makes it, "
        "so `stuck` has nothing to tell; users order again.",
        outside.no_credits,
    ),
    Incident(
        "Storage full",
        "The disk under `RECONCILER_STORAGE_LOCAL_DIR` is full; two results cannot be stored.",
        "Free space: everything goes on by itself, with `kie-reconciler retry ID` at once. KIE keeps the results for "
        "24 hours at least.",
        outside.storage_full,
        needs="unshare",
    ),
    Incident(
        "Storage down",
        "Our storage answers everything with 544, because its own database does not answer it; KIE is healthy.",
        "Look at the storage's status page and quota. Everything goes on by itself, with `kie-reconciler retry ID` at "
        "once. KIE keeps the results for 24 hours at least.",
        outside.storage_down,
    ),
    Incident(
        "Quota reached",
        "The project has used up its storage quota: our storage answers everything with 402.",
        "Raise the project's plan or its spend cap, or free space. Everything goes on by itself, with "
        "`kie-reconciler retry ID` at once.",
        outside.quota_reached,
    ),
    Incident(
        "Result host down",
        "KIE answers, but the host that its results lie on answers every download with 500.",
        "Fetch an address with curl from this machine. If others can fetch it, look at the way out of this host; else "
        "wait: every result is tried again.",
        outside.results_down,
    ),
    Incident(
        "Bucket made private",
        "Somebody has made the bucket private while the daemon ran. Uploads succeed and are proven with the daemon's "
        "key, but no browser can open them. The leader asks about the bucket every minute.",
        "Make the bucket public again; what was stored meanwhile can then be opened, nothing has to be stored anew. A"
        " daemon that is started while the bucket is private ends with exit code 2.",
        outside.bucket_private,
    ),
    Incident(
        "Trigger dropped",
        "A migration of the application has dropped both triggers. Rows are found by the sweep alone: after 15 s at "
        "most instead of at once.",
        "`kie-reconciler migrate` as the owner makes them again. Nobody is woken for it, as nothing is lost but "
        "seconds.",
        inside.trigger_dropped,
    ),
    Incident(
        "Transaction pooler",
        "`DATABASE_URL` leads to PgBouncer in transaction mode, where LISTEN cannot work.",
        "Give `DATABASE_URL` the direct address or one in session mode and restart. Until then the sweep finds every "
        "row.",
        inside.pooler,
        needs="pgbouncer",
    ),
    Incident(
        "Replica killed",
        "One of two replicas was killed with rows in its hands (kill -9).",
        "Nothing for the rows: the other replica takes them over when their leases end. Let the supervisor start a "
        "new one, and look in its own log why the old one died.",
        inside.replica_killed,
    ),
    Incident(
        "Clock skewed",
        "The clock of the daemon's host is an hour slow. Deliveries go on, as leases and due times are the "
        "database's; but what Prometheus compares with its own clock looks an hour old.",
        "Set the clock by NTP. `doctor` tells it from a loop that really stands still; so does `/healthz`, which is "
        "200 here.",
        inside.clock_skewed,
        needs="cc",
    ),
    Incident(
        "Poisoned row",
        "KIE says that one task succeeded, and that its result lies at `file:///etc/passwd`. It is never opened; the "
        "rows beside it are delivered as ever.",
        "`explain` shows what KIE said; report the task to KIE. It is asked about again, ever more slowly, and given "
        "up or parked after `RECONCILER_GIVE_UP_AFTER`; the application may set it to `cancelled` before.",
        inside.poisoned_row,
    ),
    Incident(
        "Table altered",
        "A migration of the application has renamed asset_url. No delivery can be written.",
        "Undo the renaming, or add the column again. The daemon reads the table every 5 s meanwhile and goes on by "
        "itself.",
        inside.table_altered,
    ),
    Incident(
        "Clock stepped",
        "The clock of the database's server has jumped ahead by 25 hours while the daemon worked.",
        "Let NTP set the server's clock back. Nothing is given up or deleted by its age until the clock has run evenly "
        "for ten minutes; deliveries go on.",
        inside.clock_stepped,
        needs="cc",
        clock=True,
    ),
    Incident(
        "Hook blocked",
        "`reconciler.on_failed` refunds a wallet, and a session of the application has held that wallet's row for "
        "minutes. One failure cannot be written; other rows are delivered as ever.",
        "End the session that holds the lock: `explain` and PostgreSQL's `pg_blocking_pids` name it. The failure and "
        "its refund are written within five minutes, or with `kie-reconciler retry ID`.",
        inside.hook_blocked,
    ),
    Incident(
        "No replica running",
        "The operator has stopped the only replica. Two generations wait.",
        "`systemctl start kie-reconciler`, or `pm2 start kie-reconciler`. Everything that waits is found at its start.",
        inside.no_replica_runs,
    ),
)
