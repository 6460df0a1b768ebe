-- Rows in every state that 0.1.0 leaves behind, for a database with schema_0_1_0.sql. `prompt` is the name of the case,
-- pg_temp.id(name) the id of its generation, task-<name> its task. Times count from the moment of loading.
-- Stored objects hold the 16 bytes "stored by 0.1.0\n"; that of `broken` is missing.

CREATE FUNCTION pg_temp.id(name text) RETURNS text LANGUAGE sql AS 'SELECT md5(name)::uuid::text';

-- As an older application has it: both vocabularies.
ALTER TABLE public.generations DROP CONSTRAINT generations_status_check;
ALTER TABLE public.generations ADD CONSTRAINT generations_status_check CHECK (status IN (
    'queued', 'generating', 'success', 'failed', 'cancelled', 'pending', 'processing', 'completed'));

INSERT INTO public.generations (id, user_id, kind, model_key, prompt, task_id, status, created_at, error)
SELECT pg_temp.id(name)::uuid, '0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11', 'image', 'nano-banana-2', name, task, status,
       now() - age::interval, error
  FROM (VALUES
        -- In flight; the daemon has never seen the first two.
        ('new', 'queued', 'task-new', '20 s', NULL),
        ('new_pending', 'pending', 'task-new_pending', '20 s', NULL),
        ('polled', 'queued', 'task-polled', '1 min', NULL),
        ('processing', 'processing', 'task-processing', '1 min', NULL),
        ('generating', 'generating', 'task-generating', '1 min', NULL),
        ('held', 'generating', 'task-held', '1 min', NULL),
        ('half_stored', 'generating', 'task-half_stored', '5 min', NULL),
        ('not_stored', 'generating', 'task-not_stored', '5 min', NULL),
        ('empty', 'generating', 'task-empty', '5 min', NULL),
        ('unknown', 'queued', 'task-unknown', '5 min', NULL),
        ('other_task', 'generating', 'task-other_task', '5 min', NULL),
        ('task_replaced', 'generating', 'task-task_replaced', '5 min', NULL),
        ('ordered', 'queued', NULL, '5 min', NULL),
        ('refused', 'queued', NULL, '5 min', NULL),
        ('parked', 'generating', 'task-parked', '2 days', NULL),
        -- Ended.
        ('delivered', 'success', 'task-delivered', '1 hour', NULL),
        ('broken', 'success', 'task-broken', '1 hour', NULL),
        ('lost', 'success', 'task-lost', '20 days', NULL),
        ('unstored', 'completed', 'task-unstored', '1 hour', NULL),
        ('echoed', 'success', 'task-echoed', '1 hour', NULL),
        ('failed', 'failed', 'task-failed', '1 hour', 'Internal error (500)'),
        ('gave_up', 'failed', 'task-gave_up', '30 hours', 'gave up after 24 h; last: KIE says waiting'),
        ('reopened', 'failed', 'task-reopened', '1 hour', 'Internal error (500)'),
        ('cancelled', 'cancelled', 'task-cancelled', '1 hour', NULL)
       ) AS cases (name, status, task, age, error);

INSERT INTO public.generations (id, kind, model_key, provider, prompt, task_id, status)
VALUES (pg_temp.id('of_another_provider')::uuid, 'image', 'flux', 'fal', 'of_another_provider', 'theirs', 'queued');

UPDATE public.generations
   SET asset_url = 'http://127.0.0.1:9/files/' || user_id || '/image/' || id || '_0.png',
       asset_urls = jsonb_build_array('http://127.0.0.1:9/files/' || user_id || '/image/' || id || '_0.png'),
       result_urls = '["https://tempfile.aiquickdraw.com/r/former.png"]'
 WHERE prompt IN ('delivered', 'broken', 'lost');
UPDATE public.generations
   SET asset_url = 'https://tempfile.aiquickdraw.com/r/echoed.png',
       result_urls = '["https://tempfile.aiquickdraw.com/r/echoed.png"]'
 WHERE prompt = 'echoed';

INSERT INTO reconciler.instances (id, host, pid, version, started_at, seen_at, doing) VALUES
    ('00000000-0000-4000-8000-000000000001', 'web-1', 4711, '0.1.0', now() - interval '1 day', now(), '{"held": 1}'),
    ('00000000-0000-4000-8000-000000000002', 'web-2', 4712, '0.1.0', now() - interval '1 day', now() - interval '3 hours', NULL);
INSERT INTO reconciler.leader (instance, until)
VALUES ('00000000-0000-4000-8000-000000000001', now() + interval '3 s');
INSERT INTO reconciler.watching (until) VALUES (now() - interval '1 hour');

-- Every row that the daemon has seen: what it read last.
INSERT INTO reconciler.work (generation_id, due_at, trigger, seen_status, seen_task, looks, looked_at, traceparent)
SELECT id::text, now(), 'poll', status, task_id, 3, now() - interval '20 s',
       '00-' || md5(prompt) || '-' || left(md5(prompt), 16) || '-01'
  FROM public.generations
 WHERE provider = 'kie' AND prompt NOT IN ('new', 'new_pending', 'unstored', 'echoed');

-- key_hash is that of the key "key-of-the-shop".
UPDATE reconciler.work
   SET key_hash = 'd0ddc66349f3b4f5', family = 'market', acknowledged_at = now() - interval '40 s',
       answered_at = now() - interval '20 s', why = 'KIE says generating', early_at = now()
 WHERE generation_id IN (SELECT id::text FROM public.generations WHERE prompt IN ('polled', 'processing', 'generating'));
UPDATE reconciler.work
   SET lease = '00000000-0000-4000-8000-00000000aaaa', lease_until = now() + interval '1 s', woken = 2, trigger = 'notify',
       instance = '00000000-0000-4000-8000-000000000001'
 WHERE generation_id = pg_temp.id('held');
UPDATE reconciler.work
   SET sources = ARRAY['https://tempfile.aiquickdraw.com/r/0.png', 'https://tempfile.aiquickdraw.com/r/1.png'],
       stale = true, completed_at = now() - interval '1 min', took = interval '30 s', misses = 2,
       media_deadline = now() + interval '13 days', why = 'storage: HTTP 503', acknowledged_at = now() - interval '1 min',
       answered_at = now() - interval '1 min', early_at = now()
 WHERE generation_id IN (pg_temp.id('half_stored'), pg_temp.id('not_stored'));
UPDATE reconciler.work SET finding = 'storage_refuses' WHERE generation_id = pg_temp.id('not_stored');
UPDATE reconciler.work
   SET empties = 2, finding = 'empty_success', why = 'KIE says success, without any output'
 WHERE generation_id = pg_temp.id('empty');
UPDATE reconciler.work
   SET unknowns = 1, misses = 4, why = 'KIE does not know the task with this key'
 WHERE generation_id = pg_temp.id('unknown');
UPDATE reconciler.work
   SET task_since = now() - interval '30 s', former_tasks = '{task-former,task-second}'
 WHERE generation_id = pg_temp.id('other_task');
UPDATE reconciler.work SET seen_task = 'task-before' WHERE generation_id = pg_temp.id('task_replaced');
UPDATE reconciler.work
   SET ordered_at = now() - interval '5 min', looks = 0, looked_at = NULL, finding = 'no_task', why = 'no task id yet'
 WHERE generation_id = pg_temp.id('ordered');
UPDATE reconciler.work
   SET ordered_at = now() - interval '5 min', looks = 0, looked_at = NULL, refused = 'The model is not supported (422)'
 WHERE generation_id = pg_temp.id('refused');
UPDATE reconciler.work
   SET due_at = now() + interval '1 hour', early_at = now() + interval '1 hour', finding = 'parked', misses = 40,
       why = 'KIE does not know the task'
 WHERE generation_id = pg_temp.id('parked');
UPDATE reconciler.work
   SET due_at = NULL, delivered_at = now() - interval '50 min', completed_at = now() - interval '51 min',
       media_deadline = now() + interval '13 days', sources = '{https://tempfile.aiquickdraw.com/r/former.png}',
       audit_at = now(), acknowledged_at = now() - interval '55 min', answered_at = now() - interval '51 min'
 WHERE generation_id IN (pg_temp.id('delivered'), pg_temp.id('broken'));
-- Its address is dead, so that KIE has to be asked for another.
UPDATE reconciler.work SET media_deadline = now() - interval '1 min' WHERE generation_id = pg_temp.id('broken');
UPDATE reconciler.work
   SET due_at = NULL, delivered_at = now() - interval '20 days', lost_at = now() - interval '2 hours',
       audit_at = now() + interval '29 days', why = 'nothing left to fetch'
 WHERE generation_id = pg_temp.id('lost');
UPDATE reconciler.work
   SET due_at = NULL, why = 'Internal error (500)', refunded_at = now() - interval '50 min'
 WHERE generation_id = pg_temp.id('failed');
UPDATE reconciler.work
   SET gave_up = true, why = 'gave up after 24 h; last: KIE says waiting', refunded_at = now() - interval '6 hours'
 WHERE generation_id = pg_temp.id('gave_up');
UPDATE reconciler.work
   SET reopened = true, refunded_at = now() - interval '50 min', trigger = 'sync'
 WHERE generation_id = pg_temp.id('reopened');
UPDATE reconciler.work
   SET due_at = NULL, why = 'status cancelled is not one that the daemon changes'
 WHERE generation_id = pg_temp.id('cancelled');

-- Receipts; those of half_stored and not_stored are intentions as far as verified_by is null.
INSERT INTO reconciler.assets (generation_id, task_id, n, path, mime, size, sha256, md5, upload, version, verified_by, stored_at)
SELECT pg_temp.id(name), 'task-' || name, n,
       '0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11/image/' || pg_temp.id(name) || '_' || n || '.png', 'image/png', 16,
       'ccc768f5203a4cc1d3c8f7fb7dc6c0675ff4a0bd293f7dc2b569d69273b8d1e6',
       'd566516bb5de7458b3bad81eac637210', upload, CASE WHEN stored THEN 'version-1' END, CASE WHEN stored THEN 'read-back-sha256' END,
       CASE WHEN stored THEN now() - interval '50 min' END
  FROM (VALUES ('delivered', 0, NULL, true), ('broken', 0, NULL, true), ('half_stored', 0, NULL, true),
               ('half_stored', 1, 'upload-of-a-dead-process', false), ('not_stored', 0, NULL, false)
       ) AS objects (name, n, upload, stored);

INSERT INTO reconciler.orphans (path, why, since) VALUES
    ('someone/image/old_0.png', 'the generation was deleted', now() - interval '2 hours'),
    ('someone/image/older_0.png', 'the generation got another task', now() - interval '1 day');

INSERT INTO reconciler.events (key, generation_id, kind, payload, at, announced_at, tries, next_at, dead_at, trouble)
SELECT concat_ws('|', pg_temp.id(name), 'task-' || name, kind, 0), pg_temp.id(name), kind,
       jsonb_build_object('generation_id', pg_temp.id(name), 'task_id', 'task-' || name, 'status', status),
       now() - interval '50 min', announced, tries, next, dead, trouble
  FROM (VALUES
        ('delivered', 'succeeded', 'success', now() - interval '49 min', 0, NULL, NULL, NULL),
        ('broken', 'succeeded', 'success', now() - interval '49 min', 1, NULL, NULL, NULL),
        ('lost', 'lost', 'success', now() - interval '2 hours', 0, NULL, NULL, NULL),
        ('failed', 'failed', 'failed', NULL, 0, NULL, NULL, NULL),
        ('gave_up', 'gave_up', 'failed', NULL, 7, now() + interval '1 hour', NULL, 'HTTP 502'),
        ('reopened', 'failed', 'failed', NULL, 400, NULL, now() - interval '10 min', 'HTTP 404')
       ) AS told (name, kind, status, announced, tries, next, dead, trouble);

-- Of a row without a task, of a task that has a row, and of a task that no row has.
INSERT INTO reconciler.callbacks (task_id, generation_id, body, at, digest, count) VALUES
    ('task-ordered', pg_temp.id('ordered'), '{"code": 200, "data": {"taskId": "task-ordered"}}', now() - interval '4 min', 'one', 1),
    ('task-polled', pg_temp.id('polled'), '{"code": 200, "data": {"taskId": "task-polled"}}', now() - interval '10 s', 'two', 4),
    ('task-of-no-row', NULL, '{"code": 200, "data": {"taskId": "task-of-no-row"}}', now() - interval '1 day', 'three', 1);

INSERT INTO reconciler.requests (caller, key, digest, generation_id, at) VALUES
    ('', 'order-1', 'digest', pg_temp.id('ordered'), now() - interval '5 min'),
    ('0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11', 'order-1', 'digest', NULL, now() - interval '1 hour');
INSERT INTO reconciler.creations (key_hash, recent, shut) VALUES
    ('d0ddc66349f3b4f5', ARRAY[now() - interval '5 min'], NULL), ('of-another-key', '{}', now() + interval '1 hour');
INSERT INTO reconciler.budget (key_hash, next_at, rests_until) VALUES
    ('d0ddc66349f3b4f5', now(), NULL), ('of-another-key', now(), now() + interval '1 hour');
INSERT INTO reconciler.timings (model, took, at)
SELECT 'nano-banana-2', 20 + n, now() - n * interval '1 min' FROM generate_series(1, 30) AS n;
INSERT INTO reconciler.pace (model, mu, sigma, n, theta) VALUES ('', NULL, NULL, 0, 0.01), ('nano-banana-2', 3.2, 0.4, 30, NULL);
