#!/usr/bin/env bash
# A source file past 600 lines is two things.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files -z --cached --others --exclude-standard -- '*.rs' '*.py' '*.proto' '*.sh' '*.ts' '*.go' '*.java' '*.cc' |
    xargs -0 awk '
        FNR == 601 { print FILENAME ": more than 600 lines; split it"; found = 1; nextfile }
        END { exit found }'
