// A container's shell from Orlop's protos alone: node dist/main.js ADDRESS IMAGE [--plain-http] -- COMMAND...
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { join } from "node:path";
import { stderr, stdin, stdout } from "node:process";

type Progress = { digest: string; kind: string; state: string; current?: number; total?: number };
type Pulled = { resolved?: { name: string; digest: string }; progress?: Progress };
type Output = { stdout?: Buffer; stderr?: Buffer; exit?: { code: number; reason: string }; detached?: object };
type Ran = { output?: Output };
interface Engine extends grpc.Client {
  pull(request: object, metadata: grpc.Metadata): grpc.ClientReadableStream<Pulled>;
  run(metadata: grpc.Metadata): grpc.ClientDuplexStream<object, Ran>;
}
type Service = new (address: string, credentials: grpc.ChannelCredentials) => Engine;

const protos = loadSync(["orlop/engine/v1/images.proto", "orlop/engine/v1/containers.proto"], {
  includeDirs: [join(__dirname, "../../../protos")], longs: Number, enums: String,
});
const { orlop } = grpc.loadPackageDefinition(protos) as unknown as {
  orlop: { engine: { v1: { ImageService: Service; ContainerService: Service } } };
};
const split = process.argv.indexOf("--");
const [address, image, ...flags] = process.argv.slice(2, split < 0 ? undefined : split);
const metadata = new grpc.Metadata();
metadata.set("containerd-namespace", process.env.ORLOP_NAMESPACE || "default");

function finish(code: number, message?: string): never {
  if (stdin.isTTY) stdin.setRawMode(false);
  if (message) stderr.write(`${message}\n`);
  process.exit(code);
}

async function pull(engine: Engine, reference: string): Promise<void> {
  const layers = new Map<string, Progress>();
  for await (const step of engine.pull({ reference, plainHttp: flags.includes("--plain-http") }, metadata)) {
    const { resolved, progress } = step as Pulled;
    if (resolved) stderr.write(`${resolved.name} is ${resolved.digest}\n`);
    if (progress?.kind !== "BLOB_KIND_LAYER") continue;
    const changed = layers.get(progress.digest)?.state !== progress.state;
    if (stderr.isTTY && layers.size) stderr.write(`\x1b[${layers.size}A`);
    layers.set(progress.digest, progress);
    for (const layer of stderr.isTTY ? layers.values() : changed ? [progress] : []) {
      const state = layer.state.replace("BLOB_STATE_", "").toLowerCase();
      const percent = layer.total ? ` ${Math.floor((100 * (layer.current ?? 0)) / layer.total)}%` : "";
      stderr.write(`${layer.digest.slice(7, 19)} ${state}${percent}${stderr.isTTY ? "\x1b[K" : ""}\n`);
    }
  }
}

function run(engine: Engine, args: string[]): void {
  const terminal = Boolean(stdin.isTTY && stdout.isTTY);
  const window = () => ({ width: stdout.columns, height: stdout.rows });
  const stream = engine.run(metadata);
  const spec = { image, args, terminal, stdin: true, autoRemove: true };
  const options = { spec, pull: "PULL_POLICY_NEVER", onCancel: "ON_CANCEL_KILL" };
  stream.write({ options: terminal ? { ...options, window: window() } : options });
  stdin.on("data", (chunk) => {
    if (stream.write({ input: { stdin: chunk } })) return;
    stdin.pause();
    stream.once("drain", () => stdin.resume());
  });
  stdin.on("end", () => stream.write({ input: { stdinEnd: {} } }));
  if (terminal) stdin.setRawMode(true);
  if (terminal) stdout.on("resize", () => stream.write({ input: { resize: window() } }));
  stream.on("data", ({ output }: Ran) => {
    if (output?.exit) finish(output.exit.code, output.exit.reason);
    const [target, bytes] = output?.stderr ? [stderr, output.stderr] : [stdout, output?.stdout];
    if (bytes) target.write(bytes);
  });
  stream.on("error", (error: grpc.ServiceError) => finish(125, `error: ${error.details}`));
}

if (!address || !image || split < 0) finish(2, "usage: main.js ADDRESS IMAGE [--plain-http] -- COMMAND...");
const { ImageService, ContainerService } = orlop.engine.v1;
pull(new ImageService(address, grpc.credentials.createInsecure()), image)
  .then(() => run(new ContainerService(address, grpc.credentials.createInsecure()), process.argv.slice(split + 1)))
  .catch((error: grpc.ServiceError) => finish(125, `error: ${error.details ?? error}`));
