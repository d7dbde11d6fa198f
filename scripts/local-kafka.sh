#!/bin/sh
# Runs an Apache Kafka (KRaft, one node) at 127.0.0.1:9092 in the foreground, for trying things; Ctrl-C ends it, and its data goes with it.
# It has a topic "defender" of 4 partitions. Another port: local-kafka.sh 19092. Needs Java 17 and Maven.
set -eu
cd "$(dirname "$0")/.."
port=${1:-9092}
target=${CARGO_TARGET_DIR:-target}
libs=$target/kafka-libs
mkdir -p "$target"
exec 9>"$target/kafka-libs.lock"
flock 9
if [ ! -e "$libs/.complete" ]; then
    mvn -q -B -f pom.xml dependency:copy-dependencies "-DoutputDirectory=$PWD/$libs"
    touch "$libs/.complete"
fi
flock -u 9
data=$(mktemp -d)
kafka=
trap 'rm -rf "$data"' EXIT
trap 'kill $kafka 2>/dev/null; exit 0' INT TERM
cat >"$data/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$data/log
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
PROPERTIES
java -cp "$libs/*" kafka.tools.StorageTool format -t Zmlyc3RzZWVudGVzdDAwMA -c "$data/server.properties" >/dev/null
java -Xmx512m -cp "$libs/*" kafka.Kafka "$data/server.properties" >"$data/log.txt" 2>&1 &
kafka=$!
# The tool waits until the broker answers.
java -cp "$libs/*" org.apache.kafka.tools.TopicCommand --bootstrap-server "127.0.0.1:$port" --create --if-not-exists --topic defender \
    --partitions 4 >/dev/null 2>&1
echo "Kafka at 127.0.0.1:$port; Ctrl-C ends it" >&2
wait $kafka || { tail -5 "$data/log.txt" >&2; exit 1; }
