"use strict";

// Texts of the page. Names of tasks and classes that are missing here are shown as they are.
const TEXTS = {
  en: {
    title: () => capitalized(TASKS.map(taskName).join(", ")),
    intro: () => `Predictions for every face of a photo: ${TASKS.map(taskName).join(", ")}.`,
    photos: "Photos", results: "Results", preview: "Camera", messages: "Messages",
    choose: "Choose photos", camera: "Use the camera", drop: "or drop them here, or paste them",
    shoot: "Take the photo", stop: "Close the camera", clear: "Remove all",
    limits: "Up to 10 MB each. Nothing is stored.",
    caution: () => "Estimates based on appearance; they can be wrong.",
    meaning: () => `The code is ${formula()}.`, codes: "Show codes",
    save: "Save:", picture: "Picture", live: "Live",
    about: (years) => `about ${years}`, interval: (low, high) => `80%: ${low} to ${high}`,
    years: "Years",
    working: (name) => `${name}: looking for faces …`,
    waiting: (name) => `${name}: waiting for its turn …`,
    found: (number) => number === 0 ? "no face found: centre crop"
      : number === 1 ? "1 face" : `${number} faces`,
    face: (number) => `Face ${number}`, centre: "Centre of the photo",
    none: "no face found: centre crop", noFace: "no face found", code: (code) => `code ${code}`,
    unseen: "This browser can't show this kind of file.",
    turned: "This browser shows the photo turned; the boxes wouldn't fit.",
    failed: "no prediction", large: "more than 10 MB", busy: "the service is busy; try again later",
    offline: "the service doesn't respond; is it still running?",
    closed: "The camera can't be used", shot: "camera",
    cleared: "All photos are removed.",
    cameraReasons: { NotFoundError: "no camera found", NotAllowedError: "access was denied",
      NotReadableError: "another program uses it" },
    reasons: {},
    tasks: { mask: "mask", gender: "gender", age: "age" },
    classes: { wear: "worn", incorrect: "incorrect", not_wear: "not worn", male: "male",
      female: "female", "<30": "under 30", "30-59": "30 to 59", ">=60": "60 or older" },
  },
  ko: {
    title: () => TASKS.map(taskName).join(" · "),
    intro: () => `사진 속 모든 얼굴에 대한 예측: ${TASKS.map(taskName).join(", ")}.`,
    photos: "사진", results: "결과", preview: "카메라", messages: "알림",
    choose: "사진 선택", camera: "카메라 사용", drop: "또는 여기에 끌어다 놓거나 붙여 넣으세요",
    shoot: "촬영", stop: "카메라 닫기", clear: "모두 지우기",
    limits: "파일당 10 MB까지. 아무것도 저장하지 않습니다.",
    caution: () => "겉모습에 따른 추정이며 틀릴 수 있습니다.",
    meaning: () => `코드 = ${formula()}.`, codes: "코드 표시",
    save: "저장:", picture: "그림", live: "실시간",
    about: (years) => `약 ${years}세`, interval: (low, high) => `80%: ${low}~${high}세`,
    years: "나이",
    working: (name) => `${name}: 얼굴을 찾는 중…`,
    waiting: (name) => `${name}: 차례를 기다리는 중…`,
    found: (number) => number === 0 ? "얼굴을 찾지 못함: 가운데 부분 사용" : `얼굴 ${number}개`,
    face: (number) => `얼굴 ${number}`, centre: "사진 가운데",
    none: "얼굴을 찾지 못함: 가운데 부분 사용", noFace: "얼굴 없음", code: (code) => `코드 ${code}`,
    unseen: "이 브라우저에서는 이 형식의 파일을 표시할 수 없습니다.",
    turned: "이 브라우저는 사진을 돌려서 표시하므로 얼굴 상자를 그리지 않습니다.",
    failed: "결과 없음", large: "10 MB 초과",
    busy: "서비스가 바쁩니다. 나중에 다시 시도하세요",
    offline: "서비스가 응답하지 않습니다. 실행 중인지 확인하세요",
    closed: "카메라를 사용할 수 없습니다", shot: "카메라",
    cleared: "사진을 모두 지웠습니다.",
    cameraReasons: { NotFoundError: "카메라를 찾을 수 없습니다",
      NotAllowedError: "사용 권한이 거부되었습니다", NotReadableError: "다른 프로그램이 사용 중입니다" },
    reasons: { empty: "빈 파일입니다", format: "지원하는 사진 형식이 아니거나 파일 앞부분이 손상되었습니다",
      damaged: "파일이 손상되었습니다", small: "사진이 너무 작습니다(한 변이 20픽셀 이상이어야 함)",
      large: "사진이 너무 큽니다", heic: "이 서비스는 HEIC 사진을 읽을 수 없습니다. JPEG로 저장해 주세요",
      depth: "밝기 범위를 알 수 없는 사진입니다", model: "모델이 값을 계산하지 못했습니다",
      slow: "처리 시간이 너무 오래 걸립니다" },
    tasks: { mask: "마스크", gender: "성별", age: "연령대" },
    classes: { wear: "착용", incorrect: "잘못 착용", not_wear: "미착용", male: "남성",
      female: "여성", "<30": "30세 미만", "30-59": "30~59세", ">=60": "60세 이상" },
  },
};
const PARALLEL = 2; // requests at a time
const RETRIES = 60; // while the service is busy
const LIVE_MS = 250; // between two pictures of the live camera, at least
const LIVE_SIDE = 640; // px of their longer side

// From the server: task names, and in order the weight of each task that is part of the code.
const TASKS = JSON.parse(document.body.dataset.tasks);
const WEIGHTS = JSON.parse(document.body.dataset.weights);

const byId = (name) => document.getElementById(name);
const photos = []; // { name, url, state, result, status, reason, view }, the newest first
const queue = [];
let language = (navigator.language || "en").toLowerCase().startsWith("ko") ? "ko" : "en";
let working = 0;
let stream = null;
let live = null; // an object for each time it runs

const text = () => TEXTS[language];
const word = (kind, name) => text()[kind][name] || name.replaceAll("_", " ");
const taskName = (task) => word("tasks", task);
const capitalized = (words) => words.charAt(0).toUpperCase() + words.slice(1);
const formula = () => WEIGHTS.map(([task, weight]) =>
  weight === 1 ? taskName(task) : `${taskName(task)} × ${weight}`).join(" + ");
const percent = (probability) => `${(100 * probability).toFixed(1)}%`;
const rounded = (probability) => `${Math.floor(100 * probability + 0.5)}%`;
// As --draw: Okabe and Ito's colours, by the class of the first task.
const COLOURS = ["#0072B2", "#F0E442", "#D55E00", "#56B4E9", "#E69F00", "#009E73", "#CC79A7",
  "#000000"];
const NO_FACE = "#BBBBBB";
const SMALL = 960; // px: smaller photos are enlarged to this, in the page and as a picture

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function announce(sentence) { // to screen readers
  byId("log").append(element("p", { textContent: sentence }));
  while (byId("log").children.length > 20) byId("log").firstChild.remove();
}

function showError(sentence) {
  byId("error").textContent = sentence;
  byId("error").hidden = !sentence;
}

// Sending: a request for each photo, because a bad one makes the whole request fail.

function add(files) {
  showError("");
  for (const [place, file] of [...files].entries()) {
    const photo = { name: file.name, file, url: URL.createObjectURL(file), state: "waiting" };
    photos.splice(place, 0, photo);
    queue.push(photo);
    show(photo);
  }
  next();
}

async function next() {
  if (working >= PARALLEL || !queue.length) return;
  working += 1;
  const photo = queue.shift();
  photo.state = "working";
  show(photo);
  announce(text().working(photo.name));
  next();
  try {
    await predict(photo);
  } catch {
    Object.assign(photo, { state: "failed", status: 0 });
  }
  photo.file = null;
  working -= 1;
  if (photos.includes(photo)) {
    show(photo);
    announce(spoken(photo));
  }
  next();
}

async function predict(photo, retries = RETRIES) {
  const body = new FormData();
  body.append("files", photo.file, photo.name);
  for (let turn = 1; ; turn += 1) {
    const response = await fetch("predict", { method: "POST", body });
    if (response.status === 503 && turn < retries) {
      const seconds = Number(response.headers.get("retry-after")) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      continue;
    }
    const content = await response.json().catch(() => ({}));
    if (response.ok) {
      Object.assign(photo, { state: "done", result: content.photos[0] });
    } else {
      const { reason, code } = content.files?.[0] || { reason: content.detail };
      Object.assign(photo, { state: "failed", status: response.status, reason, code });
    }
    return;
  }
}

// Showing

function show(photo) {
  const shown = view(photo);
  if (photo.view?.isConnected) photo.view.replaceWith(shown);
  else byId("results").insertBefore(shown, byId("results").children[photos.indexOf(photo)] || null);
  photo.view = shown;
  byId("tools").hidden = false;
}

function view(photo) {
  const title = element("h2", { textContent: photo.name });
  const head = element("header", {}, title);
  const article = element("article", { className: `photo ${photo.state}` }, head);
  article.setAttribute("aria-label", photo.name);
  if (photo.state === "failed") {
    article.append(element("p", { className: "problem", textContent: problem(photo) }));
    return article;
  }
  const faces = photo.result ? photo.result.faces : [];
  article.classList.toggle("single", faces.length === 1);
  const line = photo.result ? summary(faces) : text()[photo.state](photo.name);
  head.append(element("p", { className: photo.result ? "soft" : "soft working", textContent: line }));
  const boxes = faces.map((face) => box(face, photo.result));
  const figure = picture(photo, line, boxes);
  article.append(figure);
  if (!photo.result) return article;
  const cards = faces.map((face, place) => card(face, place, faces.length === 1));
  article.append(element("ul", { className: "faces" }, ...cards));
  const save = element("button", { type: "button", className: "quiet", textContent: text().picture });
  save.setAttribute("aria-label", `${text().save} ${text().picture} (${photo.name})`);
  save.addEventListener("click", () => savePicture(photo, figure.querySelector("img")));
  head.append(element("p", { className: "saving soft" }, `${text().save} `, save));
  cards.forEach((one, place) => {
    const mark = (on) => () => boxes[place].classList.toggle("chosen", on);
    for (const event of ["mouseenter", "focusin"]) one.addEventListener(event, mark(true));
    for (const event of ["mouseleave", "focusout"]) one.addEventListener(event, mark(false));
    boxes[place].addEventListener("click", () => one.querySelector("summary").focus());
  });
  return article;
}

function summary(faces) { // "9 faces: 7 worn, 2 not worn", by the first task
  const found = faces.filter((face) => face.face_found);
  const words = text().found(found.length);
  if (!found.length) return words;
  const counts = new Map();
  for (const face of found) {
    const [, { answer }] = tasks(face)[0];
    counts.set(answer, (counts.get(answer) || 0) + 1);
  }
  const parts = [...counts].map(([name, number]) =>
    language === "ko" ? `${word("classes", name)} ${number}` : `${number} ${word("classes", name)}`);
  const single = [...counts.keys()].map((name) => word("classes", name));
  return `${words}: ${found.length === 1 ? single : parts.join(", ")}`;
}

function colour(face) {
  if (!face.face_found) return NO_FACE;
  const [, { answer, probabilities }] = tasks(face)[0];
  return COLOURS[Object.keys(probabilities).indexOf(answer) % COLOURS.length];
}

function ink(fill) { // letters that can be read on a colour
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(fill.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue < 110 ? "#ffffff" : "#000000";
}

// What is predicted for a face in a few words: ["worn 92%", "male 100%", "about 27"].
function words(face, numbers = true) {
  return tasks(face).map(([task, { answer, probabilities }]) =>
    task === "age" && years(face) ? text().about(Math.round(face.years))
      : word("classes", answer) + (numbers ? ` ${rounded(probabilities[answer])}` : ""));
}

const years = (face) => typeof face.years === "number";

function picture(photo, line, boxes) {
  const image = element("img", { src: photo.url, alt: `${photo.name}: ${line}` });
  const figure = element("figure", {}, image, ...boxes);
  image.addEventListener("error", () => {
    figure.replaceChildren(element("p", { className: "soft", textContent: text().unseen }));
  });
  image.addEventListener("load", () => { // Chromium ignores the EXIF orientation of a WebP
    const [wide, high] = [image.naturalWidth, image.naturalHeight];
    const most = Math.max(wide, (SMALL * wide) / Math.max(wide, high));
    figure.style.width = `min(100%, ${most}px, ${(75 * wide) / high}vh)`;
    const { width, height, faces } = photo.result || {};
    if (!boxes.length) return;
    if (wide === width && high === height) {
      new ResizeObserver(() => label(figure, boxes, faces)).observe(figure);
      return;
    }
    boxes.forEach((one) => one.remove());
    figure.append(element("p", { className: "soft", textContent: text().turned }));
  });
  return figure;
}

function box(face, { width, height }) {
  const [x0, x1] = [face.box[0], face.box[2]].map((x) => Math.min(Math.max(x / width, 0), 1));
  const [y0, y1] = [face.box[1], face.box[3]].map((y) => Math.min(Math.max(y / height, 0), 1));
  const made = element("div", { className: face.face_found ? "box" : "box centre" });
  made.setAttribute("aria-hidden", "true"); // the faces below have the same content
  Object.assign(made.style, { left: `${100 * x0}%`, top: `${100 * y0}%`,
    width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%` });
  made.style.setProperty("--colour", colour(face));
  return made;
}

// Labels on a photo, as --draw places them: where they cover least of the faces and each other.

function label(figure, boxes, faces) {
  figure.querySelectorAll(".label").forEach((one) => one.remove());
  const size = [figure.clientWidth, figure.clientHeight];
  const frames = boxes.map((one) => [one.offsetLeft, one.offsetTop,
    one.offsetLeft + one.offsetWidth, one.offsetTop + one.offsetHeight]);
  for (const short of [false, true]) { // numbers alone where the words would hide the faces
    const labels = faces.map((face, place) => labelled(face, place, faces.length, short));
    figure.append(...labels);
    const extents = labels.map((one) => [one.offsetWidth, one.offsetHeight]);
    const [spots, hidden] = placed(frames, extents, size);
    labels.forEach((one, place) => {
      Object.assign(one.style, { left: `${spots[place][0]}px`, top: `${spots[place][1]}px` });
    });
    const area = frames.reduce((sum, frame) => sum + overlap(frame, frame), 0);
    if (short || hidden <= area / 10) return;
    labels.forEach((one) => one.remove());
  }
}

function labelled(face, place, number, short) {
  const made = element("div", { className: "label" });
  made.setAttribute("aria-hidden", "true");
  made.append(...lines(face, place, number, short).map((line) =>
    element("div", { textContent: line })));
  made.style.setProperty("--colour", colour(face));
  made.style.setProperty("--ink", ink(colour(face)));
  return made;
}

function lines(face, place, number, short = false) {
  if (short) return [face.face_found ? `${place + 1}` : "?"];
  const shown = words(face, false);
  if (!face.face_found) return [text().noFace, ...shown];
  return number > 1 ? [`${place + 1}: ${shown[0]}`, ...shown.slice(1)] : shown;
}

function placed(frames, extents, [wide, high]) { // → [left, top] of each, and px² that they hide
  const taken = [...frames];
  let hidden = 0;
  const spots = frames.map(([x0, y0, x1, y1], place) => {
    const [w, h] = extents[place];
    const corners = [[x0, y1], [x0, y0 - h], [x1, y0], [x0 - w, y0], [x1 - w, y1], [x1 - w, y0 - h],
      [x1, y1 - h], [x0 - w, y1 - h], [x0, y1 - h]];
    let best = null;
    for (const [x, y] of corners) {
      const left = Math.min(Math.max(0, x), Math.max(0, wide - w));
      const top = Math.min(Math.max(0, y), Math.max(0, high - h));
      const spot = [left, top, left + w, top + h];
      const covers = taken.reduce((sum, other) => sum + overlap(spot, other), 0);
      if (!best || covers < best.covers) best = { spot, covers };
    }
    taken.push(best.spot);
    hidden += best.covers;
    return best.spot;
  });
  return [spots, hidden];
}

function overlap(one, other) {
  const across = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const down = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  return Math.max(0, across) * Math.max(0, down);
}

// A line for each face; the bars on demand.

function card(face, place, open) {
  const name = face.face_found ? `${place + 1}` : text().centre;
  const swatch = element("i", { className: "swatch" });
  swatch.style.setProperty("--colour", colour(face));
  const line = [name, ...words(face)].map((part) => element("span", { textContent: part }));
  const shown = element("summary", {}, swatch, ...line,
    element("span", { className: "code", textContent: text().code(face.code) }));
  const made = element("details", { open }, shown);
  if (!face.face_found) {
    made.append(element("p", { className: "note", textContent: text().none }));
  }
  const list = element("dl");
  for (const [task, { answer, probabilities }] of tasks(face)) {
    const bars = Object.entries(probabilities).map((entry) => bar(...entry, answer));
    list.append(element("dt", { textContent: capitalized(taskName(task)) }),
      element("dd", {}, element("ul", {}, ...bars)));
  }
  if (years(face)) {
    const interval = face.years_interval ? ` (${text().interval(...face.years_interval)})` : "";
    list.append(element("dt", { textContent: text().years }),
      element("dd", { textContent: text().about(Math.round(face.years)) + interval }));
  }
  made.append(list);
  return element("li", { className: "face" }, made);
}

const tasks = (face) => Object.entries(face).filter(([, value]) => value?.probabilities);

function bar(name, probability, answer) {
  const filled = element("i");
  filled.style.width = percent(probability);
  const rail = element("div", { className: "bar" }, filled);
  rail.setAttribute("aria-hidden", "true");
  const chosen = name === answer;
  return element("li", { className: chosen ? "probability chosen" : "probability" },
    element("span", { textContent: (chosen ? "✓ " : "") + word("classes", name) }), rail,
    element("span", { className: "number", textContent: percent(probability) }));
}

function problem({ status, reason, code }) {
  const reasons = { 0: text().offline, 413: text().large, 503: text().busy };
  return `${text().failed}: ${reasons[status] || text().reasons[code] || reason || status}`;
}

function spoken(photo) {
  if (!photo.result) return `${photo.name}: ${problem(photo)}`;
  const { faces } = photo.result;
  const each = faces.slice(0, 6).map((face, place) => {
    const said = tasks(face).map(([task, { answer }]) =>
      `${taskName(task)} ${task === "age" && years(face) ? text().about(Math.round(face.years))
        : word("classes", answer)}`);
    if (byId("codes").checked) said.push(text().code(face.code));
    const name = face.face_found ? text().face(place + 1) : text().centre;
    return `${name}: ${said.join(", ")}.`;
  });
  return [`${photo.name}: ${summary(faces)}.`, ...each].join(" ");
}

function translate() {
  document.documentElement.lang = language;
  document.title = text().title();
  for (const part of document.querySelectorAll("[data-text]")) {
    const content = text()[part.dataset.text];
    part.textContent = typeof content === "function" ? content() : content;
  }
  for (const part of document.querySelectorAll("[data-label]")) {
    part.setAttribute("aria-label", text()[part.dataset.label]);
  }
  const other = language === "en" ? "ko" : "en";
  Object.assign(byId("language"), { textContent: other === "ko" ? "한국어" : "English", lang: other });
  for (const photo of photos) show(photo);
  byId("tools").hidden = !photos.length;
}

// The camera

async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    showError(`${text().closed}: ${text().cameraReasons[error.name] || error.message || error.name}`);
    return;
  }
  showError("");
  byId("video").srcObject = stream;
  byId("viewfinder").hidden = false;
  byId("camera").hidden = true;
  byId("shoot").focus();
}

function closeCamera() {
  stopLive();
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = null;
  byId("video").srcObject = null;
  byId("viewfinder").hidden = true;
  byId("camera").hidden = false;
  byId("camera").focus();
}

function frame(largest, quality) { // → a promise of the camera's picture as a JPEG, or null
  const video = byId("video");
  if (!video.videoWidth) return Promise.resolve(null); // no picture yet
  const scale = Math.min(1, largest / Math.max(video.videoWidth, video.videoHeight));
  const canvas = element("canvas", { width: Math.round(video.videoWidth * scale),
    height: Math.round(video.videoHeight * scale) });
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", quality));
}

async function shoot() {
  const blob = await frame(Infinity, 0.95);
  if (!blob) return;
  add([new File([blob], `${text().shot}.jpg`, { type: "image/jpeg" })]);
  closeCamera();
}

async function goLive() {
  const run = live = {};
  byId("live").setAttribute("aria-pressed", "true");
  while (live === run) {
    const next = new Promise((resolve) => setTimeout(resolve, LIVE_MS));
    const blob = document.hidden ? null : await frame(LIVE_SIDE, 0.85);
    const photo = blob && { name: "live.jpg", file: blob };
    if (photo) await predict(photo, 1).catch(() => Object.assign(photo, { status: 0 }));
    if (live !== run) return;
    if (photo) showLive(photo);
    await next;
  }
}

function showLive(photo) {
  const screen = byId("screen");
  screen.querySelectorAll(".box, .label").forEach((one) => one.remove());
  const busy = photo.status === 503;
  const faces = photo.result ? photo.result.faces.filter((face) => face.face_found) : [];
  byId("seen").textContent = faces.length ? summary(faces) : photo.result ? text().noFace
    : busy ? "" : problem(photo);
  const boxes = faces.map((face) => box(face, photo.result));
  screen.append(...boxes);
  label(screen, boxes, faces);
}

function stopLive() {
  live = null;
  byId("live").setAttribute("aria-pressed", "false");
  byId("screen").querySelectorAll(".box, .label").forEach((one) => one.remove());
  byId("seen").textContent = "";
}

// Saving

function save(name, type, ...parts) {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

const settled = () => photos.filter((photo) => photo.result || photo.state === "failed");

function saveJson() {
  const found = settled().map((photo) => photo.result || { name: photo.name, error: problem(photo) });
  save("faces.json", "application/json", JSON.stringify({ photos: found }, null, 1), "\n");
}

function saveCsv() { // the columns of combine.py's table of faces
  const columns = ["ImageID", "face", "found", "x0", "y0", "x1", "y1",
    ...TASKS.flatMap((task) => [task, `${task}_probability`]), "years", "years_low", "years_high",
    "code", "error"];
  const rows = settled().flatMap((photo) => (photo.result?.faces || [null]).map((face, place) =>
    face === null ? { ImageID: photo.name, error: problem(photo) } : { ImageID: photo.name,
      face: face.face_found ? place + 1 : 0, found: face.face_found, code: face.code,
      ...Object.fromEntries(face.box.map((side, at) => [["x0", "y0", "x1", "y1"][at], side])),
      ...Object.fromEntries(tasks(face).flatMap(([task, { answer, probabilities }]) =>
        [[task, answer], [`${task}_probability`, probabilities[answer].toFixed(6)]])),
      years: face.years?.toFixed(1), years_low: face.years_interval?.[0],
      years_high: face.years_interval?.[1] }));
  const cell = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  const table = [columns, ...rows.map((row) => columns.map((name) => row[name]))];
  // The byte order mark tells Excel that names are UTF-8.
  save("faces.csv", "text/csv", "\ufeff", table.map((row) => row.map(cell).join(",")).join("\r\n"), "\r\n");
}

function savePicture(photo, image) {
  const { width, height, faces } = photo.result;
  const scale = Math.max(1, SMALL / Math.max(width, height));
  const canvas = element("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
  const draw = canvas.getContext("2d");
  const unit = Math.max(canvas.width, canvas.height) / SMALL;
  draw.drawImage(image, 0, 0, canvas.width, canvas.height);
  const frames = faces.map((face) => face.box.map((side) => side * scale));
  draw.font = `600 ${15 * unit}px system-ui, sans-serif`;
  draw.textBaseline = "top";
  const texts = faces.map((face, place) => lines(face, place, faces.length));
  const extents = texts.map((one) => [Math.max(...one.map((line) => draw.measureText(line).width))
    + 8 * unit, (20 * one.length + 4) * unit]);
  faces.forEach((face, place) => {
    const [x0, y0, x1, y1] = frames[place];
    for (const [line, stroke] of [[5, "#000000"], [3, colour(face)]]) {
      Object.assign(draw, { lineWidth: line * unit, strokeStyle: stroke });
      draw.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
  });
  placed(frames, extents, [canvas.width, canvas.height])[0].forEach(([left, top], place) => {
    draw.fillStyle = colour(faces[place]);
    draw.fillRect(left, top, ...extents[place]);
    draw.fillStyle = ink(draw.fillStyle);
    texts[place].forEach((line, at) => draw.fillText(line, left + 4 * unit, top + (4 + 20 * at) * unit));
  });
  const name = photo.name.replace(/\.[^.]*$/, "");
  canvas.toBlob((blob) => save(`${name}.faces.jpg`, "image/jpeg", blob), "image/jpeg", 0.92);
}

function clear() {
  for (const photo of photos) URL.revokeObjectURL(photo.url);
  photos.length = 0;
  queue.length = 0;
  byId("results").replaceChildren();
  byId("tools").hidden = true;
  showError("");
  announce(text().cleared);
  byId("files").focus();
}

byId("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = ""; // the same photo may be chosen again
});
byId("language").addEventListener("click", () => {
  language = language === "en" ? "ko" : "en";
  showError("");
  translate();
});
byId("clear").addEventListener("click", clear);
byId("camera").addEventListener("click", openCamera);
byId("shoot").addEventListener("click", shoot);
byId("stop").addEventListener("click", closeCamera);
byId("live").addEventListener("click", () => live ? stopLive() : goLive());
byId("csv").addEventListener("click", saveCsv);
byId("json").addEventListener("click", saveJson);
byId("codes").addEventListener("change", (event) => {
  document.body.classList.toggle("codes", event.target.checked);
});
byId("camera").hidden = !navigator.mediaDevices?.getUserMedia;
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("give").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("give").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("give").classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
translate();
