// Pictures as blobs: from and to base64, sizes, cutting to a model's size.

const SMALL = 160; // pixels up to which a picture is shown with hard edges
const urls = new Map();

/** An address of a kept picture for <img>; the same one each time. */
export function addressOf(picture) {
  if (!urls.has(picture.id)) urls.set(picture.id, URL.createObjectURL(picture.blob));
  return urls.get(picture.id);
}

/** Frees the address of a picture that is gone. */
export function forget(picture) {
  URL.revokeObjectURL(urls.get(picture.id));
  urls.delete(picture.id);
}

export function blobOf(base64, type = "image/png") {
  const text = atob(base64.replace(/^data:[^,]*,/, ""));
  return new Blob([Uint8Array.from(text, (letter) => letter.charCodeAt(0))], { type });
}

export function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("This file cannot be read."));
    reader.readAsDataURL(blob);
  });
}

/** The decoded picture; a file that is none is refused. */
export async function decoded(blob) {
  try {
    return await createImageBitmap(blob);
  } catch {
    throw new Error(`${blob.name ?? "This file"} is no picture that this browser can read.`);
  }
}

/** Whether <img> should show its pixels. */
export function isSmall({ width, height }) {
  return Math.max(width, height) <= SMALL;
}

/** A picture of so many pixels in the middle of this one, scaled so that it is filled; transparency stays, the server knows what lies behind it. */
export async function fitted(blob, width, height) {
  const bitmap = await decoded(blob);
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, (width - bitmap.width * scale) / 2, (height - bitmap.height * scale) / 2, bitmap.width * scale, bitmap.height * scale);
  return canvasBlob(canvas);
}

/** The same picture with at most so many pixels a side; a smaller one as it is. */
export async function shrunk(blob, most) {
  const { width, height } = await decoded(blob);
  const scale = most / Math.max(width, height);
  return scale >= 1 ? blob : fitted(blob, Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
}

export function canvasBlob(canvas) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("This picture is too large for this browser."))), "image/png");
  });
}

/** Pixels of a blob as Float32Array in [0, 1], grey or RGB after one another. */
export async function values(blob) {
  const bitmap = await decoded(blob);
  const pen = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  pen.drawImage(bitmap, 0, 0);
  const { data } = pen.getImageData(0, 0, bitmap.width, bitmap.height);
  return Float32Array.from({ length: (data.length / 4) * 3 }, (_, at) => data[Math.floor(at / 3) * 4 + (at % 3)] / 255);
}
