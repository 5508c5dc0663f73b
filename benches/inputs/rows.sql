-- Fills a table in memory, indexes it, and asks it things. ROWS is replaced by the harness.
PRAGMA journal_mode = OFF;
CREATE TABLE entries (id INTEGER PRIMARY KEY, name TEXT, kind INTEGER, amount REAL, note TEXT);
INSERT INTO entries
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ROWS)
SELECT n, 'name ' || (n * 7919 % 1000003), n * 31 % 97, n * 0.37, substr('abcdefghijklmnopqrstuvwxyz', n % 20, n % 9) || n FROM number;
CREATE INDEX by_name ON entries (name);
CREATE INDEX by_kind ON entries (kind, amount);
SELECT kind, count(*), sum(amount), max(name) FROM entries GROUP BY kind ORDER BY 3 LIMIT 5;
SELECT count(*) FROM entries AS one JOIN entries AS two ON two.name = 'name ' || one.id WHERE one.id < ROWS / 3;
SELECT count(DISTINCT note), group_concat(DISTINCT kind) FROM entries;
UPDATE entries SET note = note || ' changed' WHERE kind % 3 = 0;
DELETE FROM entries WHERE kind % 5 = 1;
SELECT count(*), sum(length(note)) FROM entries;
