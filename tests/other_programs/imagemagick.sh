# ImageMagick: filters and format conversions; the pixels must be the same.
. ./prelude.sh
size=500x400
if nightly; then size=3000x2000; fi
protected convert -size "$size" gradient:red-blue -swirl 120 -blur 0x3 first.png
protected convert first.png -rotate 17 -resize 60% -sharpen 0x1 -colorspace Gray second.tiff
protected convert first.png second.tiff -resize 320x240\! +append -quality 90 third.jpg
protected convert third.jpg -colors 64 -dither FloydSteinberg fourth.gif
protected convert first.png -crop 100x100 +repage tiles-%02d.bmp
for image in first.png second.tiff third.jpg fourth.gif tiles-00.bmp; do
    protected identify -format '%w %h %#\n' "$image"
done
