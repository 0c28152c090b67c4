#!/usr/bin/env bash
# Style, contract, dependencies and sizes. Runs every check, then fails if one
# failed. With names of checks: only those.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

CHECKS=(fmt clippy buf ruff mypy go typescript deps docs size shell)
BUF=node_modules/.bin/buf

check_fmt() {
    cargo fmt --all --check
}

# In the release profile, which shares what the build has made.
check_clippy() {
    cargo clippy --quiet --release --workspace --all-targets -- -D warnings
}

check_buf() {
    "$BUF" lint
    "$BUF" breaking --against proto/golden.binpb
}

check_ruff() {
    "$PYTHON" -m ruff check --quiet .
    "$PYTHON" -m ruff format --quiet --check --diff .
}

check_mypy() {
    (cd clients/python && "$PYTHON" -m mypy --strict nullspace)
    "$PYTHON" -m mypy --strict templates/build.py scripts/check-deps.py
}

check_go() {
    local unformatted
    unformatted=$(gofmt -l clients/go/*.go clients/go/cmd)
    [ -z "$unformatted" ] || die "not as gofmt has it: $unformatted"
    (cd clients/go && go vet ./...)
}

check_typescript() {
    (cd clients/typescript && npm run --silent check)
}

check_deps() {
    "$PYTHON" scripts/check-deps.py
}

check_docs() {
    PYTHONPATH=clients/python "$PYTHON" scripts/check-docs.py
}

check_size() {
    scripts/check-size.sh
}

check_shell() {
    local script
    for script in scripts/*.sh tests/guest/*.sh .ci/run; do
        bash -n "$script"
    done
    ! command -v shellcheck >/dev/null || shellcheck --external-sources scripts/*.sh tests/guest/*.sh .ci/run
}

tools() {
    "$ROOT/scripts/setup.sh" packages python stubs buf go typescript
}

main() {
    local check checks=("${CHECKS[@]}") failed=() started
    [ $# -eq 0 ] || checks=("$@")
    tools
    for check in "${checks[@]}"; do
        started=$(now)
        # In a process of its own: a function called in a condition goes on
        # after a failed command.
        if scripts/lint.sh --check "$check"; then
            echo "ok      $check, $(since "$started")"
        else
            echo "FAILED  $check, $(since "$started")"
            failed+=("$check")
        fi
    done
    [ ${#failed[@]} -eq 0 ] || die "lint failed: ${failed[*]}"
}

if [ "${1:-}" = --check ]; then "check_$2"; else main "$@"; fi
