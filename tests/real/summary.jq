def weight: (.tags | length) + (.name | ascii_downcase | explode | add) % 100;

map(select(.id % 3 != 0) | . + {weight: weight, code: (.name | @base64)})
| group_by(.place)
| map({
    place: .[0].place,
    count: length,
    heaviest: (max_by(.weight) | {id, weight, code}),
    tags: (map(.tags[]) | unique | join("+")),
    text: (map(.text | gsub("(?<a>[a-z])(?<b>[0-9])"; "\(.b)\(.a)")) | sort | .[:3])
  })
| sort_by(-.count, .place)
