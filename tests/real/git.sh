# A small repository: commits, a merge, a clone over the pack protocol, log, gc, fsck.
set -eu

git init --quiet --initial-branch=main origin
cd origin
for commit in $(seq 1 40); do
    file=file$((commit % 7))
    seq "$commit" 3 $((commit * 40)) >> "$file"
    git add "$file"
    git commit --quiet -m "commit $commit of $file"
done
git checkout --quiet -b side HEAD~5
seq 1 2000 > side
git add side
git commit --quiet -m "on the side"
git checkout --quiet main
git merge --quiet --no-edit side
cd ..

git clone --quiet "file://$PWD/origin" copy
cd copy
git log --stat --format='%H %an %ad %s'
git gc --quiet --aggressive --prune=now
git fsck --full --strict
git blame --line-porcelain file3 | sort | uniq -c
git diff --stat HEAD~20 HEAD
git grep -c 7 HEAD~3
git rev-list --objects --all | sort
git archive --format=tar HEAD | cksum
