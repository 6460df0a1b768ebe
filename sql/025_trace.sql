-- Where a generation's trace begins, for all replicas: W3C's traceparent, drawn with the first claim where tracing is on.
ALTER TABLE reconciler.work ADD COLUMN IF NOT EXISTS traceparent text;
