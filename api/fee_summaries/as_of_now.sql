-- What figures are exact for, and the last position that a change was assigned. $position: see as_of.sql.
WITH as_of AS ({as_of})
SELECT as_of.*, change_log.last_position AS assigned FROM as_of, change_log WHERE change_log.id = 1
