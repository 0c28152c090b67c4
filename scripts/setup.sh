#!/usr/bin/env bash
# Installs what is missing and builds everything. Each step looks first whether
# its work is done. With names of steps: only those; `run` names those that a
# server and its Python client need.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/versions.env
source "$ROOT/scripts/versions.env"
cd "$ROOT"

CLIENTS=(buf go typescript java cpp)
STEPS=(prerequisites packages server cli agent engine python stubs template)
PACKAGES=(ca-certificates gcc iproute2 libc6-dev mmdebstrap mold nftables procps)
CPP_PACKAGES=(cmake g++ libgrpc++-dev libprotobuf-dev libssl-dev pkgconf protobuf-compiler protobuf-compiler-grpc)
# A firewall, beside which sandboxes must have a way out.
TEST_PACKAGES=(iptables)
STAMPS=$ROOT/target/stamps
# Named together, so that they share one build of what they depend on.
PROGRAMS=(-p nullspace-server -p nullspace-cli)

missing() {
    echo "nullspace: missing: $*" >&2
    MISSING=1
}

step_prerequisites() {
    MISSING=0
    [ "$(id -u)" = 0 ] || missing "root: run make as root, it makes network namespaces and rules"
    [ -e /etc/debian_version ] || missing "Debian: the packages and the template come from it; use a Debian 12 machine"
    local version
    version=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || true
    at_least "${version:-0}" "$RUST_MINIMUM" ||
        missing "Rust $RUST_MINIMUM or newer (found ${version:-none}): install it with rustup, see https://rustup.rs"
    command -v go >/dev/null || missing "Go: install it from https://go.dev/dl and put its bin directory on PATH"
    version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || true
    at_least "${version:-0}" "$PYTHON_MINIMUM" ||
        missing "Python $PYTHON_MINIMUM or newer (found ${version:-none}): apt-get install python3"
    command -v node >/dev/null || missing "Node: apt-get install nodejs"
    command -v npm >/dev/null || missing "npm: apt-get install npm"
    [ "$MISSING" = 0 ] || exit 1
}

step_packages() {
    # Another Python than Debian's brings its own venv.
    python3 -c 'import ensurepip, venv' 2>/dev/null || PACKAGES+=(python3-venv)
    install_packages "${PACKAGES[@]}"
}

# Installs those of the Debian packages that are missing.
install_packages() {
    local wanted=() package installed
    # shellcheck disable=SC2016
    installed=$(dpkg-query -Wf '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null) || true
    for package in "$@"; do
        grep -qx "installed $package" <<<"$installed" || wanted+=("$package")
    done
    [ ${#wanted[@]} -gt 0 ] || return 0
    note "installing ${wanted[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
}

step_server() {
    cargo build --release "${PROGRAMS[@]}" --bin nullspaced
}

step_cli() {
    cargo build --release "${PROGRAMS[@]}" --bin nullspace
}

# Static, so that it runs in any root file system.
step_agent() {
    local target=x86_64-unknown-linux-gnu
    CARGO_TARGET_DIR=target/agent RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-fuse-ld=mold" \
        cargo build --release -p nullspace-agent --target "$target"
    "$SERVER" install --assets-dir "$ASSETS" agent "target/agent/$target/release/nullspace-agent" >/dev/null
}

step_engine() {
    local built
    done_before "$ASSETS/engines/source" "$RUNSC_VERSION" "$ASSETS/engines/current" && return
    note "building gVisor's runsc, about a minute"
    built=$(mktemp -d "$DATA/build.XXXXXX")
    # Linked dynamically it would not find its libraries in its own chroot.
    CGO_ENABLED=0 GOBIN=$built go install -ldflags="-s -w" "$RUNSC_MODULE@$RUNSC_VERSION"
    "$SERVER" install --assets-dir "$ASSETS" engine "$built/runsc" >/dev/null
    rm -rf "$built"
    remember "$ASSETS/engines/source" "$RUNSC_VERSION" "$ASSETS/engines/current"
}

step_python() {
    local inputs
    inputs=$(python3 --version; cat clients/python/pyproject.toml)
    [ ! -x "$PYTHON" ] || ! stamped python "$inputs" || return 0
    note "installing the Python packages"
    [ -x "$PYTHON" ] || python3 -m venv .venv
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --editable 'clients/python[dev]'
    stamp python "$inputs"
}

step_stubs() {
    local inputs
    inputs=$(cat clients/python/generate.py proto/nullspace/v1/*.proto)
    [ ! -d clients/python/nullspace/_gen ] || ! stamped stubs "$inputs" || return 0
    "$PYTHON" clients/python/generate.py
    stamp stubs "$inputs"
}

step_template() {
    local source built
    source=$(python3 templates/build.py --print-source-digest templates/base)
    done_before "$ASSETS/templates/source-base" "$source" "$ASSETS/templates/by-name/base" && return
    note "building the template from Debian's packages, about a minute"
    # On the file system of the assets, where the finished tree is moved.
    built=$(mktemp -d "$ASSETS/build.XXXXXX")
    python3 templates/build.py templates/base "$built/base"
    "$SERVER" install --assets-dir "$ASSETS" template base "$built/base/rootfs" >/dev/null
    rm -rf "$built"
    remember "$ASSETS/templates/source-base" "$source" "$ASSETS/templates/by-name/base"
}

step_buf() {
    [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --ignore-scripts --silent
}

step_go() {
    local inputs program=clients/go/build/follow
    inputs=$(go version; cat proto/nullspace/v1/*.proto clients/go/{*.*,cmd/*/*.go})
    [ ! -x "$program" ] || ! stamped go "$inputs" || return 0
    (cd clients/go && go generate && go build -buildvcs=false -o build/ ./cmd/follow)
    stamp go "$inputs"
}

step_typescript() {
    local inputs program=clients/typescript/build/follow.js
    inputs=$(node --version; cat proto/nullspace/v1/*.proto clients/third_party/google/rpc/*.proto \
        clients/typescript/{*.*,src/*.ts})
    [ ! -e "$program" ] || ! stamped typescript "$inputs" || return 0
    (cd clients/typescript && npm ci --ignore-scripts --silent && npm run --silent generate && npm run --silent build)
    stamp typescript "$inputs"
}

step_java() {
    local inputs program=clients/java/target/follow.jar
    { command -v javac && command -v mvn; } >/dev/null || install_packages default-jdk-headless maven
    inputs=$(java --version; cat proto/nullspace/v1/*.proto clients/java/pom.xml; find clients/java/src -type f -exec cat {} +)
    [ ! -e "$program" ] || ! stamped java "$inputs" || return 0
    (cd clients/java && mvn --batch-mode --quiet -Dstyle.color=never package)
    stamp java "$inputs"
}

step_cpp() {
    local inputs program=clients/cpp/build/follow
    if ! install_packages "${CPP_PACKAGES[@]}"; then
        note "these packages do not install here: no client in C++, and its tests are skipped"
        return
    fi
    # Generated code must match the library exactly.
    inputs=$(dpkg-query -W "${CPP_PACKAGES[@]}"; cat proto/nullspace/v1/*.proto clients/third_party/google/rpc/*.proto \
        clients/cpp/*.*)
    [ ! -x "$program" ] || ! stamped cpp "$inputs" || return 0
    note "building the client in C++, half a minute or more"
    cmake -S clients/cpp -B clients/cpp/build >/dev/null
    cmake --build clients/cpp/build --parallel "$(nproc)" >/dev/null
    stamp cpp "$inputs"
}

step_tests() {
    install_packages "${TEST_PACKAGES[@]}"
}

# An asset is there when what it was made from is unchanged and the link leads
# to what was installed from that.
done_before() {
    [ -e "$3/" ] && [ "$(cat "$1" 2>/dev/null)" = "$2 $(readlink "$3")" ]
}

remember() {
    echo "$2 $(readlink "$3")" >"$1"
}

stamped() {
    [ "$(cat "$STAMPS/$1" 2>/dev/null)" = "$(sha256sum <<<"$2")" ]
}

stamp() {
    mkdir -p "$STAMPS"
    sha256sum <<<"$2" >"$STAMPS/$1"
}

note() {
    echo "      $*"
}

title() {
    case $1 in
    prerequisites) echo "Prerequisites" ;;
    packages) echo "Debian packages" ;;
    server) echo "Server (nullspaced)" ;;
    cli) echo "Command line (nullspace)" ;;
    agent) echo "Agent (nullspace-agent)" ;;
    engine) echo "Engine (gVisor $RUNSC_VERSION)" ;;
    python) echo "Python environment" ;;
    stubs) echo "Python stubs" ;;
    template) echo "Template base" ;;
    buf) echo "Compiler of the contract (buf)" ;;
    go) echo "Client in Go" ;;
    typescript) echo "Client in TypeScript" ;;
    java) echo "Client in Java" ;;
    cpp) echo "Client in C++" ;;
    tests) echo "Debian packages for tests" ;;
    *) die "no such step: $1 (there are ${STEPS[*]} ${CLIENTS[*]} tests, and run for the first ${#STEPS[@]})" ;;
    esac
}

main() {
    local steps=("$@") number=0 started
    case $* in
    '') steps=("${STEPS[@]}" "${CLIENTS[@]}" tests) ;;
    run) steps=("${STEPS[@]}") ;;
    esac
    for step in "${steps[@]}"; do
        number=$((number + 1))
        echo "[$number/${#steps[@]}] $(title "$step")"
        started=$(now)
        if [ "$step" != prerequisites ] && [ -z "${LOCKED:-}" ]; then
            # One at a time on this host: the assets are shared.
            # The data has secrets.
            [ -d "$DATA" ] || install -d -m 700 "$DATA"
            mkdir -p "$ASSETS"
            exec 9>"$DATA/setup.lock"
            flock -n 9 || { note "waiting for another setup on this host" && flock 9; }
            LOCKED=1
        fi
        "step_$step"
        [ $(($(now) - started)) -lt 1000 ] || note "$(since "$started")"
    done
}

main "$@"
