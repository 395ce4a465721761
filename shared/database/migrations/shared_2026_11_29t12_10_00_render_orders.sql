-- All orders have their text: a CHECK says so, which is validated without keeping anybody out, and with which the next
-- migration makes the column NOT NULL.

-- Not one LOCK TABLE: it would wait behind a long export, and every request behind it. The first only waits for a
-- vacuum, while requests are served; PostgreSQL cancels an automatic one for it.
SET LOCAL statement_timeout = 0;
LOCK TABLE orders IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = '300ms';
DO $$
BEGIN
    LOOP
        BEGIN
            LOCK TABLE orders IN ACCESS EXCLUSIVE MODE;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.2);
        END;
    END LOOP;
END
$$;

ALTER TABLE orders DROP CONSTRAINT IF EXISTS orders_rendered;
ALTER TABLE orders ADD CONSTRAINT orders_rendered CHECK (rendered IS NOT NULL) NOT VALID;
