# PHP: its extensions are opened with RTLD_DEEPBIND, and so would have the C library's malloc.
. ./prelude.sh
count=20000
if nightly; then count=1000000; fi
cat > work.php <<'END'
<?php
$count = (int)$argv[1];
$rows = [];
for ($i = 0; $i < $count; $i++) {
    $rows[] = ["key $i" => str_repeat('v', $i % 60)];
}
$sum = hash_init('sha256');
hash_update($sum, json_encode(json_decode(json_encode($rows), true)));
hash_update($sum, serialize(unserialize(serialize($rows))));
for ($i = 0; $i < 200; $i++) {
    hash_update($sum, gzuncompress(gzcompress(str_repeat("row $i ", $i * 300))));
}
echo preg_match_all('/v{3,5}/', json_encode($rows)), ' ', hash_final($sum), "\n";
echo implode(' ', get_loaded_extensions()), "\n";
END
protected php -d memory_limit=-1 work.php "$count"
