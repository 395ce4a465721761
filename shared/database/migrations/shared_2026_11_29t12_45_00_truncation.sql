-- TRUNCATE fires no trigger of rows, and no foreign key refers to calendar any more. How the schema is today, and why:
-- shared/database/schema.sql.

CREATE FUNCTION refuse_truncation_of_calendars() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM orders) THEN
        RAISE EXCEPTION 'calendars can''t be truncated without orders: their texts have calendars'' names';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER calendar_is_kept AFTER TRUNCATE ON calendar
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncation_of_calendars();
