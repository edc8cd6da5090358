-- Types of events: what their data looks like, in versions that never change.
-- Locks: new objects only; SHARE ROW EXCLUSIVE on app.tenants for the moment in which the table that points
-- to it is made. Previous release: knows no types, and takes any data.

-- What a tenant has registered. Of a name that is seeded its own versions begin at 2.
create table app.event_types (
    tenant_id uuid not null references app.tenants,
    -- Compared byte by byte, so that pages go on from where they ended whatever the database's locale.
    name text collate "C" not null check (length(name) between 1 and 128),
    version int4 not null check (version >= 1),
    description text not null check (length(description) <= 1000),
    -- A JSON Schema, draft 2020-12; null when any data will do.
    schema jsonb check (jsonb_typeof(schema) = 'object'),
    example jsonb,
    created_at timestamptz not null default now(),
    primary key (tenant_id, name, version)
);
alter table app.event_types enable row level security;
alter table app.event_types force row level security;
create policy tenant_rows on app.event_types to harkara_app
    using (tenant_id = app.current_tenant()) with check (tenant_id = app.current_tenant());
-- A version is never changed.
grant select, insert on app.event_types to harkara_app;

-- What every tenant finds, each as version 1.
create table app.seeded_event_types (
    name text collate "C" primary key,
    description text not null,
    schema jsonb not null,
    example jsonb not null,
    -- Told by the platform itself; no application posts it.
    operational boolean not null,
    created_at timestamptz not null default now()
);
grant select on app.seeded_event_types to harkara_app;

-- The schemas name members and say what they mean. They ask for none and refuse none: applications post
-- what they have.
insert into app.seeded_event_types (name, description, schema, example, operational)
select
    seed.name,
    seed.description,
    jsonb_build_object('type', 'object', 'properties', (
        select jsonb_object_agg(member.key, jsonb_build_object('description', member.value))
        from jsonb_each_text(seed.members::jsonb) member
    )),
    seed.example::jsonb,
    seed.operational
from (values
(
    'user.created', 'Somebody signed up', false,
    '{"id": "Id of the user", "email": "Address of the user", "name": "Name of the user",
      "created_at": "When they signed up, RFC 3339"}',
    '{"id": "usr_1042", "email": "ada@example.com", "name": "Ada", "created_at": "2026-03-01T09:30:00Z"}'
),
(
    'user.updated', 'What is known of a user changed', false,
    '{"id": "Id of the user", "changes": "The members that changed, as they are now",
      "updated_at": "When, RFC 3339"}',
    '{"id": "usr_1042", "changes": {"name": "Ada L."}, "updated_at": "2026-03-02T08:00:00Z"}'
),
(
    'user.deleted', 'A user is gone', false,
    '{"id": "Id the user had", "deleted_at": "When, RFC 3339"}',
    '{"id": "usr_1042", "deleted_at": "2026-06-30T17:45:00Z"}'
),
(
    'goal.created', 'A user set out for a goal', false,
    '{"id": "Id of the goal", "user_id": "Whose it is", "title": "What is to be reached",
      "target": "How much of it", "unit": "What target counts", "due_on": "Until which day"}',
    '{"id": "goal_77", "user_id": "usr_1042", "title": "Read more", "target": 12, "unit": "books",
      "due_on": "2026-12-31"}'
),
(
    'goal.updated', 'A goal, or how far it is reached, changed', false,
    '{"id": "Id of the goal", "user_id": "Whose it is", "changes": "The members that changed, as they are now",
      "progress": "How much is reached"}',
    '{"id": "goal_77", "user_id": "usr_1042", "changes": {"target": 15}, "progress": 4}'
),
(
    'goal.completed', 'A goal is reached', false,
    '{"id": "Id of the goal", "user_id": "Whose it is", "title": "What was reached",
      "completed_at": "When, RFC 3339"}',
    '{"id": "goal_77", "user_id": "usr_1042", "title": "Read more", "completed_at": "2026-11-20T20:15:00Z"}'
),
(
    'goal.deleted', 'A goal is given up', false,
    '{"id": "Id the goal had", "user_id": "Whose it was", "deleted_at": "When, RFC 3339"}',
    '{"id": "goal_77", "user_id": "usr_1042", "deleted_at": "2026-05-01T07:00:00Z"}'
),
(
    'habit.created', 'A user took up a habit', false,
    '{"id": "Id of the habit", "user_id": "Whose it is", "title": "What is done", "frequency": "How often"}',
    '{"id": "habit_9", "user_id": "usr_1042", "title": "Run", "frequency": "daily"}'
),
(
    'habit.logged', 'A habit was kept', false,
    '{"id": "Id of the habit", "user_id": "Whose it is", "logged_on": "On which day", "streak": "How many times in a row",
      "note": "What the user says of it"}',
    '{"id": "habit_9", "user_id": "usr_1042", "logged_on": "2026-03-07", "streak": 6, "note": "in the rain"}'
),
(
    'habit.streak_milestone', 'A habit was kept so many times in a row that it is worth a word', false,
    '{"id": "Id of the habit", "user_id": "Whose it is", "streak": "How many times in a row",
      "reached_on": "On which day"}',
    '{"id": "habit_9", "user_id": "usr_1042", "streak": 30, "reached_on": "2026-03-31"}'
),
(
    'habit.deleted', 'A habit is given up', false,
    '{"id": "Id the habit had", "user_id": "Whose it was", "longest_streak": "How many times in a row at best",
      "deleted_at": "When, RFC 3339"}',
    '{"id": "habit_9", "user_id": "usr_1042", "longest_streak": 41, "deleted_at": "2026-08-01T10:00:00Z"}'
),
(
    'subscription.created', 'A customer subscribed', false,
    '{"id": "Id of the subscription", "customer_id": "Who pays", "plan": "What for", "status": "How it stands",
      "current_period_end": "Until when it is paid, RFC 3339"}',
    '{"id": "sub_310", "customer_id": "cus_88", "plan": "pro-monthly", "status": "active",
      "current_period_end": "2026-04-01T00:00:00Z"}'
),
(
    'subscription.updated', 'A subscription changed', false,
    '{"id": "Id of the subscription", "customer_id": "Who pays", "plan": "What for now", "previous_plan": "What for before",
      "status": "How it stands"}',
    '{"id": "sub_310", "customer_id": "cus_88", "plan": "pro-yearly", "previous_plan": "pro-monthly",
      "status": "active"}'
),
(
    'subscription.cancelled', 'A subscription ends', false,
    '{"id": "Id of the subscription", "customer_id": "Who paid", "reason": "Why", "ends_at": "When it ends, RFC 3339"}',
    '{"id": "sub_310", "customer_id": "cus_88", "reason": "too_expensive", "ends_at": "2027-04-01T00:00:00Z"}'
),
(
    'payment.succeeded', 'A payment came in', false,
    '{"id": "Id of the payment", "customer_id": "Who paid", "amount": "How much, in the smallest unit of the currency",
      "currency": "ISO 4217", "paid_at": "When, RFC 3339"}',
    '{"id": "pay_5512", "customer_id": "cus_88", "amount": 1900, "currency": "EUR",
      "paid_at": "2026-03-01T00:00:12Z"}'
),
(
    'payment.failed', 'A payment was refused', false,
    '{"id": "Id of the payment", "customer_id": "Who was to pay",
      "amount": "How much, in the smallest unit of the currency", "currency": "ISO 4217",
      "reason": "Why, as the bank says", "retry_at": "When it is tried again, RFC 3339"}',
    '{"id": "pay_5513", "customer_id": "cus_88", "amount": 1900, "currency": "EUR",
      "reason": "insufficient_funds", "retry_at": "2026-03-04T00:00:00Z"}'
),
(
    'ai.insight_generated', 'A model found something worth telling', false,
    '{"id": "Id of the insight", "user_id": "Whom it concerns", "topic": "What about", "text": "The insight",
      "model": "Which model found it", "confidence": "How sure it is, 0 to 1"}',
    '{"id": "ins_204", "user_id": "usr_1042", "topic": "sleep", "text": "You run more after eight hours of sleep.",
      "model": "insights-2", "confidence": 0.82}'
),
(
    'team.member_added', 'Somebody joined a team', false,
    '{"team_id": "Id of the team", "user_id": "Who joined", "role": "As what", "added_by": "Who added them"}',
    '{"team_id": "team_3", "user_id": "usr_1042", "role": "editor", "added_by": "usr_1"}'
),
(
    'team.member_removed', 'Somebody left a team', false,
    '{"team_id": "Id of the team", "user_id": "Who left", "removed_by": "Who removed them"}',
    '{"team_id": "team_3", "user_id": "usr_1042", "removed_by": "usr_1"}'
),
(
    'endpoint.failing', 'Deliveries to an endpoint have failed for long, and none has succeeded since', true,
    '{"endpoint_id": "Id of the endpoint", "url": "Where it is", "failing_since": "When the first of them failed, RFC 3339",
      "failures": "How many failed", "percent": "How far it is on its way to be disabled: 50, 70, 90 or 100",
      "last_error": "Code and message of the last failure", "event": "Id and type of the event that failed last",
      "delivery_id": "The delivery that failed last"}',
    '{"endpoint_id": "ep_01h455vb4pex5vsknk084sn02q", "url": "https://example.com/webhooks",
      "failing_since": "2026-03-01T09:30:00Z", "failures": 14, "percent": 50,
      "last_error": {"code": "http_500", "message": "the receiver answered 500"},
      "event": {"id": "evt_01h455vb4pex5vsknk084sn02q", "type": "user.created"},
      "delivery_id": "dlv_01h455vb4pex5vsknk084sn02q"}'
),
(
    'endpoint.disabled', 'An endpoint is delivered to no more', true,
    '{"endpoint_id": "Id of the endpoint", "url": "Where it is", "reason": "Why",
      "failing_since": "When deliveries began to fail, RFC 3339", "failures": "How many failed"}',
    '{"endpoint_id": "ep_01h455vb4pex5vsknk084sn02q", "url": "https://example.com/webhooks",
      "reason": "failing", "failing_since": "2026-03-01T09:30:00Z", "failures": 31}'
),
(
    'endpoint.recovered', 'A delivery to an endpoint that failed has succeeded', true,
    '{"endpoint_id": "Id of the endpoint", "url": "Where it is",
      "failing_since": "When deliveries had begun to fail, RFC 3339", "failures": "How many had failed"}',
    '{"endpoint_id": "ep_01h455vb4pex5vsknk084sn02q", "url": "https://example.com/webhooks",
      "failing_since": "2026-03-01T09:30:00Z", "failures": 14}'
),
(
    'delivery.exhausted', 'A delivery has failed for good', true,
    '{"delivery_id": "Id of the delivery", "endpoint_id": "Id of the endpoint", "url": "Where it is",
      "event": "Id and type of the event, and its data where that is small", "attempts": "How often it was tried",
      "last_error": "Code and message of the last failure", "status_code": "What the receiver answered last, if it did"}',
    '{"delivery_id": "dlv_01h455vb4pex5vsknk084sn02q", "endpoint_id": "ep_01h455vb4pex5vsknk084sn02q",
      "url": "https://example.com/webhooks",
      "event": {"id": "evt_01h455vb4pex5vsknk084sn02q", "type": "user.created", "data": {"id": "usr_1042"}},
      "attempts": 10, "last_error": {"code": "http_500", "message": "the receiver answered 500"},
      "status_code": 500}'
)
) seed (name, description, operational, members, example);
