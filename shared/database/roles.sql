-- Database roles with the privileges that each process needs, and no others. Run it as the owner of the tables (the
-- role that migrates), who must be allowed to create roles; again after each migration:
--
--     psql "$OMS_DATABASE_URL" --single-transaction -v ON_ERROR_STOP=1 -f shared/database/roles.sql
--
-- The roles can't log in. Give each process a login of its own that is a member of one:
--
--     CREATE ROLE shop_api LOGIN PASSWORD '…' IN ROLE oms_api;
--
-- None of them can alter or truncate a table, or alter what a change says. tests/test_roles.py runs the processes and
-- commands as these roles.

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['oms_api', 'oms_relay', 'oms_worker'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
END
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM oms_api, oms_relay, oms_worker;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM oms_api, oms_relay, oms_worker;

-- The API, and the commands oms import, oms key, oms doctor and oms secret-key. It adds changes, and can
-- alter or delete none; it reads fee summaries, and can alter none.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO oms_api;
GRANT INSERT, UPDATE, DELETE ON orders, webhook_secret, idempotency_key, api_key_old_secret TO oms_api;
GRANT INSERT, UPDATE ON calendar, service, deleted_order, webhook, webhook_delivery, api_key TO oms_api;
GRANT INSERT, DELETE ON ordered_service, order_metadata TO oms_api;
GRANT INSERT ON order_change, claimed_order_id, imported_place, order_import, stream_ticket TO oms_api;
GRANT UPDATE (consumer) ON consumer_cursor TO oms_api;  -- to lock the row while a webhook is created
GRANT USAGE ON orders_id_seq, order_import_id_seq, order_change_id_seq, service_id_seq TO oms_api;
GRANT SELECT, UPDATE ON orders_id_seq, service_id_seq TO oms_api;  -- imported ids may be ahead of them

-- The relay. It reads no secret, no key and no kept answer.
GRANT SELECT ON change_log, consumer_cursor, order_change, webhook, webhook_delivery, fee_summary_proof,
    fee_summary_state, fee_summary, cell TO oms_relay;
GRANT SELECT (caller, operation, key, created_at) ON idempotency_key TO oms_relay;
GRANT SELECT (hash, expires_at) ON stream_ticket TO oms_relay;
GRANT UPDATE ON change_log, fee_summary_proof TO oms_relay;
GRANT UPDATE (position) ON order_change TO oms_relay;
GRANT UPDATE (created_at) ON idempotency_key TO oms_relay;  -- to lock rows that it deletes
GRANT UPDATE (expires_at) ON stream_ticket TO oms_relay;  -- likewise
GRANT DELETE ON order_change, webhook, webhook_delivery, idempotency_key, stream_ticket TO oms_relay;

-- The worker, and the commands oms verify and oms rebuild. It reads orders and changes, and can write none; it reads no key and no kept
-- answer.
GRANT SELECT ON orders, order_change, calendar, service, change_log, consumer_cursor, fee_summary, fee_summary_state,
    fee_summary_step, fee_summary_proof, webhook, webhook_secret, webhook_delivery, webhook_attempt, cell
    TO oms_worker;
GRANT INSERT, UPDATE, DELETE ON fee_summary TO oms_worker;
GRANT USAGE ON fee_summary_id_seq TO oms_worker;
GRANT INSERT, UPDATE, DELETE ON fee_summary_step TO oms_worker;
GRANT UPDATE ON fee_summary_state, fee_summary_proof, consumer_cursor TO oms_worker;
GRANT INSERT, UPDATE ON webhook_delivery, webhook_attempt TO oms_worker;
GRANT UPDATE (lease, leased_until, served_at, failing_since, last_failure_at, disabled_at, disabled_reason, updated_at)
    ON webhook TO oms_worker;
