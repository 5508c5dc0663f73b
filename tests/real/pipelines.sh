# Many short processes: pipelines, command substitution, background jobs, a coprocess.
set -eu -o pipefail

for round in $(seq 1 60); do
    seq 1 $((round * 20)) | sort -r | awk '{ print $1 % 7 }' | sort | uniq -c | tr -s ' \n' ' '
    echo "$(echo "$(printf '%s' "$round" | rev)" | cksum)"
done

total=0
for round in $(seq 1 300); do
    total=$((total + $(echo "$round")))
done
echo "total $total"

for job in $(seq 1 40); do
    (exit $((job % 5))) &
    status=0
    wait $! || status=$?
    printf '%s ' "$status"
done
echo

declare -A table
for key in $(seq 1 3000); do
    table[k$key]=$(( key * key ))
done
echo "${#table[@]} ${table[k77]}"

coproc turned { while read -r line; do echo "${line^^}"; done; }
for word in one two three; do
    echo "$word" >&"${turned[1]}"
    read -r answer <&"${turned[0]}"
    echo "$answer"
done

comm -3 <(seq 1 500 | sort) <(seq 1 2 500 | sort) | cksum
sort -n <<< "$(seq 50 -1 1)" | paste -sd+ | sed 's/1+2/one+two/'
