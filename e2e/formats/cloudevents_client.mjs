// Posts CloudEvents with the CloudEvents SDK for JavaScript: structured, binary, batch. Argument: the sidecar's URL.
import { createRequire } from "node:module";

const { CloudEvent, HTTP } = createRequire(process.argv[3])("cloudevents");
const url = process.argv[2] + "/v1/events";
const event = (number) =>
  new CloudEvent({ id: `js-${number}`, source: "/sdk/javascript", type: "order.deleted", subject: `order/${number}`, outcome: "success", data: { number } });
const post = async ({ headers, body }) => {
  const answer = await fetch(url, { method: "POST", headers, body });
  console.log(answer.status, await answer.text());
  if (!answer.ok) process.exitCode = 1;
};
await post(HTTP.structured(event(1)));
await post(HTTP.binary(event(2)));
const batch = [3, 4].map((number) => JSON.parse(HTTP.structured(event(number)).body));
await post({ headers: { "content-type": "application/cloudevents-batch+json" }, body: JSON.stringify(batch) });
