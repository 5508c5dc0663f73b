# A page that sorts, draws, and builds and tears down elements, rendered without a window; nothing is fetched.
. ./prelude.sh
cat > page.html <<'PAGE'
<!doctype html><canvas id=canvas width=300 height=200></canvas><script>
let rows = []
for (let i = 0; i < 20000; i++) rows.push({i, name: "row " + i * 7919 % 1000})
rows.sort((a, b) => a.name < b.name ? -1 : 1)
let draw = document.getElementById('canvas').getContext('2d')
for (let i = 0; i < 2000; i++) { draw.fillStyle = `rgb(${i % 255},0,0)`; draw.fillRect(i % 300, i % 200, 5, 5) }
for (let i = 0; i < 3000; i++) { let p = document.createElement('p'); p.textContent = rows[i].name; document.body.append(p) }
while (document.body.children.length > 5) document.body.lastChild.remove()
document.title = "sum " + rows.reduce((sum, row) => sum + row.i, 0)
</script>
PAGE
mkdir browser
status=0
protected chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --user-data-dir="$PWD/browser" --dump-dom "file://$PWD/page.html" > page.out 2> log || status=$?
grep -o '<title>.*</title>' page.out
grep -c '<p>' page.out || true
echo "status $status"
