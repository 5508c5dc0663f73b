PRAGMA journal_mode = MEMORY;
PRAGMA synchronous = OFF;
CREATE TABLE visits (id INTEGER PRIMARY KEY, place INTEGER, name TEXT, weight REAL);
WITH RECURSIVE rows (id, state) AS (
    SELECT 1, 12345
    UNION ALL
    SELECT id + 1, (state * 1103515245 + 12345) % 2147483648 FROM rows WHERE id < 300000
)
INSERT INTO visits SELECT id, state % 1009, printf('%x-%s', state, substr('abcdefghijklmnopqrstuvwxyz', 1, state % 26)), state / 977.0 FROM rows;
CREATE INDEX by_name ON visits (name);
CREATE INDEX by_place ON visits (place, weight);
SELECT count(*), sum(place), min(name), max(name) FROM visits;
SELECT place, count(*), printf('%.6f', avg(weight)), max(name) FROM visits GROUP BY place ORDER BY count(*) DESC, place LIMIT 50;
SELECT id, name FROM visits ORDER BY name DESC, id LIMIT 50;
SELECT id, length(name), weight FROM visits ORDER BY substr(name, 3), id LIMIT 50 OFFSET 150000;
SELECT a.place, count(*) FROM visits AS a JOIN visits AS b ON b.id = a.place * 7 GROUP BY a.place % 13 ORDER BY 2, 1;
SELECT sum(length(list)) FROM (SELECT group_concat(name, ',') AS list FROM visits GROUP BY place);
SELECT place, id, sum(weight) OVER (PARTITION BY place ORDER BY id) FROM visits WHERE place < 3 ORDER BY place, id LIMIT 100;
DELETE FROM visits WHERE place % 3 = 0;
VACUUM;
PRAGMA integrity_check;
SELECT count(*) FROM visits;
