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
    caution: () => `Estimates based on appearance; they can be wrong. The code is ${formula()}.`,
    working: (name) => `${name}: looking for faces …`,
    waiting: (name) => `${name}: waiting for its turn …`,
    found: (number) => number === 0 ? "no face found: centre crop"
      : number === 1 ? "1 face" : `${number} faces`,
    face: (number) => `Face ${number}`, centre: "Centre of the photo",
    none: "no face found: centre crop", code: (code) => `code ${code}`,
    unseen: "This browser can't show this kind of file.",
    turned: "This browser shows the photo turned; the boxes wouldn't fit.",
    failed: "no prediction", large: "more than 10 MB", busy: "the service is busy; try again later",
    offline: "the service doesn't respond; is it still running?",
    closed: "The camera can't be used", shot: "camera",
    cleared: "All photos are removed.",
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
    caution: () => `겉모습에 따른 추정이며 틀릴 수 있습니다. 코드 = ${formula()}.`,
    working: (name) => `${name}: 얼굴을 찾는 중…`,
    waiting: (name) => `${name}: 차례를 기다리는 중…`,
    found: (number) => number === 0 ? "얼굴을 찾지 못함: 가운데 부분 사용" : `얼굴 ${number}개`,
    face: (number) => `얼굴 ${number}`, centre: "사진 가운데",
    none: "얼굴을 찾지 못함: 가운데 부분 사용", code: (code) => `코드 ${code}`,
    unseen: "이 브라우저에서는 이 형식의 파일을 표시할 수 없습니다.",
    turned: "이 브라우저는 사진을 돌려서 표시하므로 얼굴 상자를 그리지 않습니다.",
    failed: "결과 없음", large: "10 MB 초과",
    busy: "서비스가 바쁩니다. 나중에 다시 시도하세요",
    offline: "서비스가 응답하지 않습니다. 실행 중인지 확인하세요",
    closed: "카메라를 사용할 수 없습니다", shot: "카메라",
    cleared: "사진을 모두 지웠습니다.",
    tasks: { mask: "마스크", gender: "성별", age: "연령대" },
    classes: { wear: "착용", incorrect: "잘못 착용", not_wear: "미착용", male: "남성",
      female: "여성", "<30": "30세 미만", "30-59": "30~59세", ">=60": "60세 이상" },
  },
};
const PARALLEL = 2; // requests at a time
const RETRIES = 60; // while the service is busy

// From the server: task names, and in order the weight of each task that is part of the code.
const TASKS = JSON.parse(document.body.dataset.tasks);
const WEIGHTS = JSON.parse(document.body.dataset.weights);

const byId = (name) => document.getElementById(name);
const photos = []; // { name, url, state, result, status, reason, view }, the newest first
const queue = [];
let language = (navigator.language || "en").toLowerCase().startsWith("ko") ? "ko" : "en";
let working = 0;
let stream = null;

const text = () => TEXTS[language];
const word = (kind, name) => text()[kind][name] || name.replaceAll("_", " ");
const taskName = (task) => word("tasks", task);
const capitalized = (words) => words.charAt(0).toUpperCase() + words.slice(1);
const formula = () => WEIGHTS.map(([task, weight]) =>
  weight === 1 ? taskName(task) : `${taskName(task)} × ${weight}`).join(" + ");
const percent = (probability) => `${(100 * probability).toFixed(1)}%`;

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

async function predict(photo) {
  const body = new FormData();
  body.append("files", photo.file, photo.name);
  for (let turn = 1; ; turn += 1) {
    const response = await fetch("predict", { method: "POST", body });
    if (response.status === 503 && turn < RETRIES) {
      const seconds = Number(response.headers.get("retry-after")) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      continue;
    }
    const content = await response.json().catch(() => ({}));
    if (response.ok) {
      Object.assign(photo, { state: "done", result: content.photos[0] });
    } else {
      const reason = content.files?.[0]?.reason || content.detail;
      Object.assign(photo, { state: "failed", status: response.status, reason });
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
  byId("clear").hidden = false;
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
  const line = photo.result ? text().found(faces.filter((face) => face.face_found).length)
    : text()[photo.state](photo.name);
  head.append(element("p", { className: photo.result ? "soft" : "soft working", textContent: line }));
  const boxes = faces.map((face, place) => box(face, place, photo.result));
  const cards = faces.map((face, place) => card(face, place));
  article.append(picture(photo, line, boxes));
  if (photo.result) article.append(element("ul", { className: "faces" }, ...cards));
  cards.forEach((one, place) => {
    const mark = (on) => () => boxes[place].classList.toggle("chosen", on);
    for (const event of ["mouseenter", "focus"]) one.addEventListener(event, mark(true));
    for (const event of ["mouseleave", "blur"]) one.addEventListener(event, mark(false));
    boxes[place].addEventListener("click", () => one.focus());
  });
  return article;
}

function picture(photo, line, boxes) {
  const image = element("img", { src: photo.url, alt: `${photo.name}: ${line}` });
  const figure = element("figure", {}, image, ...boxes);
  image.addEventListener("error", () => {
    figure.replaceChildren(element("p", { className: "soft", textContent: text().unseen }));
  });
  image.addEventListener("load", () => { // Chromium ignores the EXIF orientation of a WebP
    const { width, height } = photo.result || {};
    if (!boxes.length || (image.naturalWidth === width && image.naturalHeight === height)) return;
    boxes.forEach((box) => box.remove());
    figure.append(element("p", { className: "soft", textContent: text().turned }));
  });
  return figure;
}

function box(face, place, { width, height }) {
  const [x0, x1] = [face.box[0], face.box[2]].map((x) => Math.min(Math.max(x / width, 0), 1));
  const [y0, y1] = [face.box[1], face.box[3]].map((y) => Math.min(Math.max(y / height, 0), 1));
  const made = element("div", { className: face.face_found ? "box" : "box centre" });
  made.setAttribute("aria-hidden", "true"); // the faces below have the same content
  if (face.face_found) made.append(element("span", { textContent: place + 1 }));
  made.classList.toggle("high", y0 < 0.1); // no room for the number above
  Object.assign(made.style, { left: `${100 * x0}%`, top: `${100 * y0}%`,
    width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%` });
  return made;
}

function card(face, place) {
  const name = face.face_found ? text().face(place + 1) : text().centre;
  const made = element("li", { className: "face", tabIndex: 0 },
    element("div", { className: "top" }, element("h3", { textContent: name }),
      element("span", { className: "code", textContent: text().code(face.code) })));
  if (!face.face_found) {
    made.append(element("p", { className: "note", textContent: text().none }));
  }
  const list = element("dl");
  for (const [task, { answer, probabilities }] of tasks(face)) {
    const bars = Object.entries(probabilities).map((entry) => bar(...entry, answer));
    list.append(element("dt", { textContent: capitalized(taskName(task)) }),
      element("dd", {}, element("ul", {}, ...bars)));
  }
  made.append(list);
  return made;
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

function problem({ status, reason }) {
  const reasons = { 0: text().offline, 413: text().large, 503: text().busy };
  return `${text().failed}: ${reasons[status] || reason || status}`;
}

function spoken(photo) {
  if (!photo.result) return `${photo.name}: ${problem(photo)}`;
  const { faces } = photo.result;
  const found = text().found(faces.filter((face) => face.face_found).length);
  const each = faces.slice(0, 6).map((face, place) => {
    const words = tasks(face).map(([task, { answer }]) =>
      `${taskName(task)} ${word("classes", answer)}`);
    const name = face.face_found ? text().face(place + 1) : text().centre;
    return `${name}: ${words.join(", ")}, ${text().code(face.code)}.`;
  });
  return [`${photo.name}: ${found}.`, ...each].join(" ");
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
  byId("clear").hidden = !photos.length;
}

// The camera

async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    showError(`${text().closed}: ${error.message || error.name}`);
    return;
  }
  showError("");
  byId("video").srcObject = stream;
  byId("viewfinder").hidden = false;
  byId("camera").hidden = true;
  byId("shoot").focus();
}

function closeCamera() {
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = null;
  byId("video").srcObject = null;
  byId("viewfinder").hidden = true;
  byId("camera").hidden = false;
  byId("camera").focus();
}

function shoot() {
  const video = byId("video");
  if (!video.videoWidth) return; // no picture yet
  const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    add([new File([blob], `${text().shot}.jpg`, { type: "image/jpeg" })]);
  }, "image/jpeg", 0.95);
  closeCamera();
}

function clear() {
  for (const photo of photos) URL.revokeObjectURL(photo.url);
  photos.length = 0;
  queue.length = 0;
  byId("results").replaceChildren();
  byId("clear").hidden = true;
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
