-- What is already stored is brought to the rules that hold from now on. The migration beside this file runs it.

-- Nobody may write in between: what an older release stores would break the new rules.
LOCK TABLE orders, service, calendar IN ACCESS EXCLUSIVE MODE;


-- ---- orders: their datetimes are to the millisecond

-- Each order with more digits moves back to its millisecond, as a change like any other: it gets a new version, and
-- subscribers are told. Changes that were recorded before stay as they are.
--
-- No move breaks the 3-hour rule. Rounding down, f, keeps the order of times, and three hours are a whole number of
-- milliseconds, so f(b + 3 h) = f(b) + 3 h. Where a >= b + 3 h, therefore f(a) >= f(b) + 3 h. The orders are moved
-- from the earliest on, because the constraint is checked at each: when a moves, b has moved already; and a later c,
-- which has not, is at least three hours from a, and from f(a) <= a even more. No order changes its day either.
DO $$
DECLARE
    moved record;
BEGIN
    FOR moved IN
        SELECT id, date_trunc('milliseconds', datetime AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS datetime
        FROM orders
        WHERE datetime AT TIME ZONE 'UTC' <> date_trunc('milliseconds', datetime AT TIME ZONE 'UTC')
        ORDER BY orders.datetime, id
    LOOP
        UPDATE orders SET datetime = moved.datetime, version = version + 1, updated_at = clock_timestamp()
        WHERE id = moved.id;
    END LOOP;
END
$$;

ALTER TABLE orders ADD CONSTRAINT orders_datetime_milliseconds
    CHECK (datetime AT TIME ZONE 'UTC' = date_trunc('milliseconds', datetime AT TIME ZONE 'UTC'));


-- ---- services: no two names in use look the same

-- Names are compared as Unicode's compatibility caseless match (section 3.13, D146) compares them.
CREATE FUNCTION name_key(name text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN normalize(casefold(
    normalize(casefold(normalize(name, NFD) COLLATE pg_unicode_fast), NFKD) COLLATE pg_unicode_fast
), NFKD);

-- What somebody called a service is not for a migration to change: it names those that break the rules, and ends.
DO $$
DECLARE
    services text;
BEGIN
    SELECT string_agg(id::text, ', ' ORDER BY id) INTO services
    FROM (
        SELECT id FROM service
        WHERE btrim(normalize(name, NFKC), U&' \1680') = ''
           OR name ~ '[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]'
        ORDER BY id LIMIT 100
    ) AS invisible;
    IF services IS NOT NULL THEN
        RAISE EXCEPTION 'services with a blank name, or with characters in their names that can''t be seen: %. '
            'Rename each (UPDATE service SET name = ''…'' WHERE id = …), then migrate again', services;
    END IF;
    SELECT string_agg(ids, '; ' ORDER BY first) INTO services
    FROM (
        SELECT string_agg(id::text, ' and ' ORDER BY id) AS ids, min(id) AS first
        FROM service WHERE archived_at IS NULL
        GROUP BY name_key(name) HAVING count(*) > 1
        ORDER BY min(id) LIMIT 100
    ) AS namesakes;
    IF services IS NOT NULL THEN
        RAISE EXCEPTION 'services whose names differ only in case or in the form of letters: %. Rename or archive '
            'all but one of each (UPDATE service SET name = ''…'' WHERE id = …), then migrate again', services;
    END IF;
END
$$;

DROP INDEX service_name_in_use;
CREATE UNIQUE INDEX service_name_in_use ON service (name_key(name)) WHERE archived_at IS NULL;
ALTER TABLE service ADD CONSTRAINT service_name_visible CHECK (
    btrim(normalize(name, NFKC), U&' \1680') <> ''
    AND name !~ '[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]'
);


-- ---- calendars: no new one whose name differs only in case from another's

-- Calendars can't be renamed, so those that exist stay usable: of several, the one in small letters or the first
-- made keeps the name to itself, and the others are marked.
ALTER TABLE calendar ADD COLUMN is_case_variant boolean NOT NULL DEFAULT false;
UPDATE calendar SET is_case_variant = true WHERE id NOT IN (
    SELECT DISTINCT ON (lower(name COLLATE "C")) id FROM calendar
    ORDER BY lower(name COLLATE "C"), (name = lower(name COLLATE "C")) DESC, created_at, id
);
CREATE UNIQUE INDEX calendar_name_ignoring_case ON calendar (lower(name COLLATE "C")) WHERE NOT is_case_variant;
